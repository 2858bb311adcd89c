"""Images a second: the dense model, a committed one, and one with ranks for the hardware.

    python benchmarks/inference.py
    python benchmarks/inference.py --batch-sizes 256 --modes eager --dtypes float32
    python benchmarks/inference.py --device cuda --batch-sizes 1 8 64 256 --dtypes bfloat16
    python benchmarks/inference.py --device cuda --model deit_base_patch16_224 --reduction 0.61

For DeiT-Small `published` has the ranks of the published run (reduction 0.5); for others it is the
paper's menu with all sites at one share of their full rank. `aligned` has ranks that are multiples
of 8 a head or layer, each as near to the published one as the same number of parameters allows. All
models attend through `scaled_dot_product_attention`. `bfloat16` converts the weights as well.
Compiled is `torch.compile`, whose compilation is not in the times; `onnxruntime` runs the exported
file, on the CPU in float32. Ratios are taken round by round against dense in the same mode.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from models import add_sizes, drawn_batch, drawn_model, published_space
from record import write_record
from timing import Bar, parser_of, positive, print_bars, print_table, run, settings_of
from torch import nn

from adacomcat.budget import project
from adacomcat.config import BudgetConfig
from adacomcat.io.export import INPUT, export_onnx, require_packages
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.space import ALIGNMENT, Site
from adacomcat.methods.lowrank.spec import model_sites
from adacomcat.plan import Plan
from adacomcat.timing import Times, Variant, take_turns
from experiments.published import plans

DENSE, PUBLISHED, ALIGNED = KINDS = ("dense", "published", "aligned")
EAGER, COMPILED, ONNX = MODES = ("eager", "compiled", "onnxruntime")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SMALL, BASE = "deit_small_patch16_224", "deit_base_patch16_224"
CPU_BARS = {1: 1.65, 8: 1.45}
Build = Callable[[argparse.Namespace], dict[str, Any]]
Row = Callable[[str, str, int, dict[str, Times]], dict[str, Any]]
CUDA_BARS = {SMALL: 1.55, BASE: 2.0}


def plan_for(model: nn.Module, arguments: argparse.Namespace) -> Plan:
    """The published ranks, or the paper's menu at one share of every site."""
    *_, published = plans().values()
    sites = {site.name for site in model_sites(model)}
    if arguments.model == SMALL and sites == set(published.decisions):
        return published
    method = published_space(model)
    return method.default_plan(method.budget(BudgetConfig(reduction=arguments.reduction)))


def aligned_plan(model: nn.Module, plan: Plan) -> Plan:
    """Multiples of `ALIGNMENT` a head or layer, near a plan's ranks and no larger in all."""
    choices, ranks = [], []
    sites = [site for site in model_sites(model) if plan.decisions[site.name] is not None]
    for site in sites:
        options = _aligned_ranks(site)
        wanted = plan.decisions[site.name]
        assert wanted is not None
        # Near in proportion: a column more or less matters most where there are few.
        nearness = [-(((rank - wanted) / wanted) ** 2) for rank in options]
        choices.append((nearness, [site.cost("params", rank) for rank in options]))
        ranks.append(options)
    target = sum(site.cost("params", plan.decisions[site.name]) for site in sites)
    picks = project(choices, target)
    chosen = {s.name: r[i] for s, r, i in zip(sites, ranks, picks, strict=True)}
    return Plan(plan.method, {**plan.decisions, **chosen})


def _aligned_ranks(site: Site) -> list[int]:
    per_group = site.full // site.groups
    return [width * site.groups for width in range(ALIGNMENT, per_group + 1, ALIGNMENT)]


def built_models(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kind -> model, in float32."""
    models = {kind: drawn_model(arguments) for kind in KINDS}
    published = plan_for(models[PUBLISHED], arguments)
    plans = {PUBLISHED: published, ALIGNED: aligned_plan(models[ALIGNED], published)}
    for kind, plan in plans.items():
        LowRank(models[kind], LowRankConfig()).commit_(plan)
    return models


def runners(
    models: dict[str, Any], mode: str, dtype: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Kind -> what maps a batch to logits."""
    if mode == ONNX:
        return {kind: _onnx_runner(model, arguments.threads) for kind, model in models.items()}
    converted = {kind: model.to(DTYPES[dtype]) for kind, model in models.items()}
    if mode == EAGER:
        return converted
    # Each model its own graph; shapes are fixed, as a server that pads its batches has them.
    torch.compiler.reset()
    return {kind: torch.compile(model, dynamic=False) for kind, model in converted.items()}


def _onnx_runner(model: nn.Module, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})


def measured(arguments: argparse.Namespace, build: Build, row: Row) -> Iterator[dict[str, Any]]:
    """One row for every mode, data type and batch size that was asked for.

    Args:
        arguments: the flags.
        build: kind -> model in float32, made anew.
        row: of a mode, a data type, a batch size and the times by kind.
    """
    for dtype in arguments.dtypes:
        for mode in arguments.modes:
            if mode == ONNX and (dtype != "float32" or arguments.device != "cpu"):
                continue
            models = build(arguments)
            called = runners(models, mode, dtype, arguments)
            for batch_size in arguments.batch_sizes:
                images, _ = drawn_batch(models[DENSE], batch_size, arguments.device)
                batch: Any = images.numpy() if mode == ONNX else images.to(DTYPES[dtype])
                calls: dict[str, Variant] = {
                    kind: partial(forward, batch) for kind, forward in called.items()
                }
                with torch.inference_mode():
                    times = take_turns(calls, repeats=arguments.repeats, device=arguments.device)
                yield row(mode, dtype, batch_size, times)


def _row(mode: str, dtype: str, batch_size: int, times: dict[str, Times]) -> dict[str, Any]:
    return {
        "mode": mode,
        "dtype": dtype,
        "batch_size": batch_size,
        "images_per_s": {kind: batch_size / found.median for kind, found in times.items()},
        "over_dense": {kind: times[DENSE].over(times[kind]).to_json() for kind in times},
        "aligned_over_published": times[PUBLISHED].over(times[ALIGNED]).to_json(),
        "times": {kind: found.to_json() for kind, found in times.items()},
    }


def bars(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Iterator[Bar]:
    """What DeiT-Small and DeiT-Base have to reach where they were measured, whole."""
    if arguments.depth is not None or arguments.image_size is not None:
        return
    for row in rows:
        where = f"{row['mode']}, {row['dtype']}, batch {row['batch_size']}"
        published = row["over_dense"][PUBLISHED]["median_s"]
        aligned = row["aligned_over_published"]["median_s"]
        on_cpu = arguments.device == "cpu" and row["dtype"] == "float32" and row["mode"] != ONNX
        on_cuda = arguments.device == "cuda" and row["dtype"] == "bfloat16"
        if on_cpu and arguments.model == SMALL and row["batch_size"] in CPU_BARS:
            yield Bar(where, published, "at least", CPU_BARS[row["batch_size"]])
        if on_cuda and arguments.model in CUDA_BARS and row["batch_size"] == 256:
            yield Bar(where, published, "at least", CUDA_BARS[arguments.model])
            yield Bar(f"aligned over published, {where}", aligned, "at least", 1.0)


def compare(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the record."""
    if ONNX in arguments.modes:
        require_packages("onnx", "onnxscript", "onnxruntime")
    models = built_models(arguments)
    params = {kind: sum(p.numel() for p in model.parameters()) for kind, model in models.items()}
    del models
    for kind, count in params.items():
        print(f"{kind}: {count:,} parameters")
    rows = []
    for row in measured(arguments, built_models, _row):
        rows.append(row)
        print(
            f"measured: {row['mode']}, {row['dtype']}, batch {row['batch_size']}", file=sys.stderr
        )
    titles = ["mode", "type", "batch", *(f"{kind}/s" for kind in KINDS), *KINDS[1:], "IQR"]
    print_table(titles, [_cells(row) for row in rows])
    reached = list(bars(rows, arguments))
    print_bars(reached)
    write_record(
        arguments.output,
        "inference",
        settings_of(arguments),
        params=params,
        rows=rows,
        bars=[bar.to_json() for bar in reached],
    )


def _cells(row: dict[str, Any]) -> list[object]:
    over = row["over_dense"]
    spread = over[PUBLISHED]["q3_s"] - over[PUBLISHED]["q1_s"]
    ratios = [f"x{over[kind]['median_s']:.2f}" for kind in KINDS[1:]]
    speeds = [row["images_per_s"][kind] for kind in KINDS]
    return [row["mode"], row["dtype"], row["batch_size"], *speeds, *ratios, f"{spread:.2f}"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__, benchmark="inference", model=SMALL, batch_size=None, repeats=11)
    add_sizes(parser)
    add = parser.add_argument
    add("--batch-sizes", type=positive, nargs="+", default=[1, 8], help="(default: 1 8)")
    add("--dtypes", choices=tuple(DTYPES), nargs="+", default=["float32"])
    add("--modes", choices=MODES, nargs="+", default=list(MODES), help="(default: all)")
    add("--reduction", type=float, default=0.5, help="of parameters, without published ranks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(compare, parse())
