"""Inference speed of compressed models and of the dense one, in images per second.

    python benchmarks/inference.py                              # --method lowrank
    python benchmarks/inference.py --method diffrate --rate 2.3 --modes eager onnxruntime
    python benchmarks/inference.py --device cuda --batch-sizes 1 8 64 256 --dtypes bfloat16
    python benchmarks/inference.py --results results/methods_compared-fashion_mnist

`published` is the model at the published setting of its method. For low rank these are the ranks of
the published DeiT-Small run (reduction 0.5); for other models, the paper's menu with all sites at
one share of their full rank. `aligned` has ranks that are multiples of 8 per head or layer, as near
to the published ones as the same number of parameters allows. For DiffRate these are the published
token counts of a model and a rate in billions of MACs; in a model cut down by `--depth` or
`--image-size`, a block keeps the same share of its patches as the block at its place in the whole
model.

`--results` measures the models of the finished trials of a study instead and writes
RESULTS/speed.json, which `analysis/fig_methods.py` reads. A model is built from a trial's
configuration and final plan with random parameters, since speed depends on shapes alone; trials
with the same plan share a model.

All models attend through `scaled_dot_product_attention`. `bfloat16` converts the weights as well.
`compiled` is `torch.compile`, compilation excluded; `onnxruntime` runs the exported file, in
float32 on the CPU. Ratios are taken round by round against the dense model in the same mode.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from models import add_sizes, drawn_model, published_space
from record import write_record
from timing import Bar, parser_of, positive, print_bars, print_table, run, settings_of
from torch import nn

from adacomcat.budget import project
from adacomcat.checks import require
from adacomcat.config import BudgetConfig, TrialConfig
from adacomcat.cost import count_macs
from adacomcat.io.export import INPUT, export_onnx, require_packages
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.space import ALIGNMENT, Site, ranks_of
from adacomcat.methods.lowrank.spec import model_sites
from adacomcat.methods.tokens.rates import Rates, published_at
from adacomcat.methods.tokens.spec import shape_, shapes_for
from adacomcat.models.registry import input_shape, tokens_of
from adacomcat.models.tokens import TokenSequence
from adacomcat.plan import Plan
from adacomcat.timing import Times, Variant, take_turns
from experiments.published import plans
from study.execution.body import untrained
from study.store import Results

DENSE, PUBLISHED, ALIGNED = "dense", "published", "aligned"
EAGER, COMPILED, ONNX = MODES = ("eager", "compiled", "onnxruntime")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SMALL, BASE = "deit_small_patch16_224", "deit_base_patch16_224"
SPEED = "speed.json"

Models = dict[str, Any]
"""Name -> model in float32, in evaluation mode; `DENSE` is always there."""
Row = dict[str, Any]


def plan_for(model: nn.Module, arguments: argparse.Namespace) -> Plan:
    """The published ranks, or the paper's menu at one share of every site."""
    *_, published = plans().values()
    sites = {site.name for site in model_sites(model)}
    if arguments.model == SMALL and sites == set(published.decisions):
        return published
    method = published_space(model)
    return method.default_plan(method.budget(BudgetConfig(reduction=arguments.reduction)))


def aligned_plan(model: nn.Module, plan: Plan) -> Plan:
    """Ranks in multiples of `ALIGNMENT` per head or layer, near a plan's and no larger in all."""
    choices, ranks, now = [], [], ranks_of(plan)
    sites = [site for site in model_sites(model) if now[site.name] is not None]
    for site in sites:
        options = _aligned_ranks(site)
        wanted = now[site.name]
        assert wanted is not None
        # Near in proportion: a column more or less matters most where there are few.
        nearness = [-(((rank - wanted) / wanted) ** 2) for rank in options]
        choices.append((nearness, [site.cost("params", rank) for rank in options]))
        ranks.append(options)
    target = sum(site.cost("params", now[site.name]) for site in sites)
    picks = project(choices, target)
    chosen = {s.name: r[i] for s, r, i in zip(sites, ranks, picks, strict=True)}
    return Plan(plan.method, {**plan.decisions, **chosen})


def _aligned_ranks(site: Site) -> list[int]:
    per_group = site.full // site.groups
    return [width * site.groups for width in range(ALIGNMENT, per_group + 1, ALIGNMENT)]


def lowrank_models(arguments: argparse.Namespace) -> Models:
    """The dense model, the one with the published ranks, and the one with aligned ranks."""
    models = {kind: drawn_model(arguments) for kind in (DENSE, PUBLISHED, ALIGNED)}
    published = plan_for(models[PUBLISHED], arguments)
    plans = {PUBLISHED: published, ALIGNED: aligned_plan(models[ALIGNED], published)}
    for kind, plan in plans.items():
        LowRank(models[kind], LowRankConfig()).commit_(plan)
    return models


def rates_for(form: TokenSequence, published: Rates) -> Rates:
    """Published token counts for a model of another depth or with another number of patches.

    The counts are those of the published model, which has one prefix token, where neither differs.
    """

    def scaled(counts: tuple[int | None, ...]) -> tuple[int | None, ...]:
        patches = [count - 1 for count in counts if count is not None]
        picked = [patches[block * len(patches) // form.depth] for block in range(form.depth)]
        # Rounded up, in integers: a model that is not cut down keeps its counts.
        return tuple(form.prefix - -kept * form.patches // max(patches) for kept in picked)

    return Rates(scaled(published.prune), scaled(published.merge))


def token_models(arguments: argparse.Namespace) -> Models:
    """The dense model, and the one with the published token counts.

    Raises:
        ValueError: no rates are published for the model, or not this one.
    """
    models = {kind: drawn_model(arguments) for kind in (DENSE, PUBLISHED)}
    model = models[PUBLISHED]
    rates = rates_for(tokens_of(model), published_at(arguments.model, arguments.rate))
    shape_(model, shapes_for(model, rates))
    return models


def lowrank_bars(row: Row, arguments: argparse.Namespace) -> Iterator[Bar]:
    """Bars of DeiT-Small on a CPU, and of DeiT-Small and DeiT-Base on a GPU."""
    where, model, batch = _where(row), arguments.model, row["batch_size"]
    cpu, cuda = {1: 1.65, 8: 1.45}, {SMALL: 1.55, BASE: 2.0}
    published = row["over_dense"][PUBLISHED]["median_s"]
    on_cpu = arguments.device == "cpu" and row["dtype"] == "float32" and row["mode"] != ONNX
    if on_cpu and model == SMALL and batch in cpu:
        yield Bar(where, published, "at least", cpu[batch])
    on_cuda = arguments.device == "cuda" and row["dtype"] == "bfloat16"
    if on_cuda and model in cuda and batch == 256:
        yield Bar(where, published, "at least", cuda[model])
        aligned = row["aligned_over_published"]["median_s"]
        yield Bar(f"aligned over published, {where}", aligned, "at least", 1.0)


def token_bars(row: Row, arguments: argparse.Namespace) -> Iterator[Bar]:
    """The bar of DeiT-Small at 2.9 billion MACs on a CPU."""
    asked = (arguments.model, arguments.rate, arguments.device) == (SMALL, 2.9, "cpu")
    if asked and row["batch_size"] == 8 and row["dtype"] == "float32" and row["mode"] != ONNX:
        yield Bar(_where(row), row["over_dense"][PUBLISHED]["median_s"], "at least", 1.5)


@dataclass(frozen=True)
class Case:
    """A method: its models, its bars, and what is measured by default."""

    build: Callable[[argparse.Namespace], Models]
    bars: Callable[[Row, argparse.Namespace], Iterator[Bar]]
    batch_sizes: tuple[int, ...]
    modes: tuple[str, ...]


METHODS = {
    "lowrank": Case(lowrank_models, lowrank_bars, (1, 8), MODES),
    "diffrate": Case(token_models, token_bars, (8,), (EAGER, COMPILED)),
}


def runners(models: Models, mode: str, dtype: str, threads: int) -> dict[str, Any]:
    """Name -> callable from a batch to logits."""
    if mode == ONNX:
        return {name: _onnx_runner(model, threads) for name, model in models.items()}
    converted = {name: model.to(DTYPES[dtype]) for name, model in models.items()}
    if mode == EAGER:
        return converted
    # Each model its own graph; shapes are fixed, as a server that pads its batches has them.
    torch.compiler.reset()
    return {name: torch.compile(model, dynamic=False) for name, model in converted.items()}


def _onnx_runner(model: nn.Module, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})


def measured(build: Callable[[], Models], arguments: argparse.Namespace) -> Iterator[Row]:
    """One row for every data type, mode and batch size that was asked for.

    Args:
        build: makes the models anew.
        arguments: the flags.
    """
    for dtype in arguments.dtypes:
        for mode in arguments.modes:
            if mode == ONNX and (dtype != "float32" or arguments.device != "cpu"):
                continue
            models = build()
            shape = input_shape(models[DENSE])
            called = runners(models, mode, dtype, arguments.threads)
            for batch_size in arguments.batch_sizes:
                images = torch.randn((batch_size, *shape)).to(arguments.device)
                batch: Any = images.numpy() if mode == ONNX else images.to(DTYPES[dtype])
                calls: dict[str, Variant] = {n: partial(call, batch) for n, call in called.items()}
                with torch.inference_mode():
                    times = take_turns(calls, repeats=arguments.repeats, device=arguments.device)
                row = _row(mode, dtype, batch_size, times)
                print(f"measured: {_where(row)}", file=sys.stderr)
                yield row


def _row(mode: str, dtype: str, batch_size: int, times: Mapping[str, Times]) -> Row:
    row = {
        "mode": mode,
        "dtype": dtype,
        "batch_size": batch_size,
        "images_per_s": {name: batch_size / found.median for name, found in times.items()},
        "quartiles": {n: [batch_size / s for s in t.quartiles[::-1]] for n, t in times.items()},
        "over_dense": {name: times[DENSE].over(found).to_json() for name, found in times.items()},
        "times": {name: found.to_json() for name, found in times.items()},
    }
    if ALIGNED in times:
        row["aligned_over_published"] = times[PUBLISHED].over(times[ALIGNED]).to_json()
    return row


def _where(row: Row) -> str:
    return f"{row['mode']}, {row['dtype']}, batch {row['batch_size']}"


def compare(arguments: argparse.Namespace) -> None:
    """Measure the models of a method, print the table and write the record."""
    case = METHODS[arguments.method]
    if ONNX in arguments.modes:
        require_packages("onnx", "onnxscript", "onnxruntime")
    models = case.build(arguments)
    params = {kind: sum(p.numel() for p in model.parameters()) for kind, model in models.items()}
    macs = {kind: count_macs(model, input_shape(model)) for kind, model in models.items()}
    del models
    for kind in params:
        print(f"{kind}: {params[kind]:,} parameters, {macs[kind]:,} MACs per image")
    rows = list(measured(partial(case.build, arguments), arguments))
    kinds = [kind for kind in params if kind != DENSE]
    titles = ["mode", "type", "batch", *(f"{kind}/s" for kind in params), *kinds, "IQR"]
    print_table(titles, [_cells(row, kinds) for row in rows])
    whole = arguments.depth is None and arguments.image_size is None
    reached = [bar for row in rows for bar in case.bars(row, arguments)] if whole else []
    print_bars(reached)
    write_record(
        arguments.output or Path("results/inference.json"),
        "inference",
        settings_of(arguments),
        params=params,
        macs=macs,
        rows=rows,
        bars=[bar.to_json() for bar in reached],
    )


def _cells(row: Row, kinds: Sequence[str]) -> list[object]:
    over = row["over_dense"]
    spread = over[PUBLISHED]["q3_s"] - over[PUBLISHED]["q1_s"]
    ratios = [f"x{over[kind]['median_s']:.2f}" for kind in kinds]
    speeds = list(row["images_per_s"].values())
    return [row["mode"], row["dtype"], row["batch_size"], *speeds, *ratios, f"{spread:.2f}"]


def finished(results: Path) -> list[dict[str, Any]]:
    """The records of the finished trials of a study.

    Raises:
        ValueError: no study, none that has finished, or trials of different dense models.
    """
    store = Results(results.resolve())
    store.study()
    found = [record for record in store.trials() if record["status"] == "finished"]
    require(len(found) > 0, f"{results}: finished trials", 0, "1 or more")
    for name in ("model", "data"):
        same = all(record["config"][name] == found[0]["config"][name] for record in found)
        require(same, f"{results}: {name}", "different ones", "one for all trials")
    return found


def plan_of(record: Mapping[str, Any]) -> Plan:
    """The final plan of a trial."""
    return Plan(record["config"]["method"]["name"], record["summary"]["plan"])


def trial_models(records: Sequence[Mapping[str, Any]], device: str) -> Models:
    """Digest of a plan -> a model of its shape, and the dense model that all trials start from."""
    models: Models = {}
    for record in records:
        plan = plan_of(record)
        if plan.digest() in models:
            continue
        trial = untrained(TrialConfig.from_json(record["config"]), device)
        models.setdefault(DENSE, trial.teacher.eval())
        trial.method.commit_(plan)
        models[plan.digest()] = trial.model.eval()
    return models


def compare_trials(arguments: argparse.Namespace) -> None:
    """Measure the models of a study's finished trials, print the table and write the record."""
    records = finished(arguments.results)
    build = partial(trial_models, records, arguments.device)
    (row,) = measured(build, arguments)
    found = {
        name: {
            "images_per_s": row["images_per_s"][name],
            "quartiles": row["quartiles"][name],
            "over_dense": row["over_dense"][name]["median_s"],
        }
        for name in row["images_per_s"]
    }
    trials = {record["trial_id"]: found[plan_of(record).digest()] for record in records}
    rows = [
        (name, speed["images_per_s"], *speed["quartiles"], f"x{speed['over_dense']:.2f}")
        for name, speed in {DENSE: found[DENSE], **trials}.items()
    ]
    print_table(("trial", "images/s", "1st quartile", "3rd quartile", "over dense"), rows)
    settings = {name: row[name] for name in ("mode", "dtype", "batch_size")}
    settings |= {name: getattr(arguments, name) for name in ("device", "threads", "repeats")}
    settings["results"] = arguments.results.resolve().name
    output = arguments.output or arguments.results / SPEED
    write_record(output, "inference", settings, dense=found[DENSE], trials=trials)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, with the defaults of the method."""
    parser = parser_of(__doc__, benchmark="inference", model=SMALL, batch_size=None, repeats=11)
    parser.set_defaults(output=None)
    add_sizes(parser)
    add = parser.add_argument
    add("--method", choices=tuple(METHODS), default="lowrank", help="(default: lowrank)")
    add("--results", type=Path, metavar="RESULTS", help="measure the trials of this study instead")
    add("--batch-sizes", type=positive, nargs="+", help="(default: by method; --results: 64)")
    add("--dtypes", choices=tuple(DTYPES), nargs="+", default=["float32"])
    add("--modes", choices=MODES, nargs="+", help="(default: by method; --results: eager)")
    add("--reduction", type=float, default=0.5, help="lowrank: of parameters (default: 0.5)")
    add("--rate", type=float, default=2.9, help="diffrate: billions of MACs (default: 2.9)")
    given = parser.parse_args(argv)
    case = METHODS[given.method]
    of_trials = given.results is not None
    given.batch_sizes = given.batch_sizes or ([64] if of_trials else list(case.batch_sizes))
    given.modes = given.modes or ([EAGER] if of_trials else list(case.modes))
    for name in ("batch_sizes", "dtypes", "modes"):
        if of_trials and len(getattr(given, name)) > 1:
            parser.error(f"--{name.replace('_', '-')}: with --results, one value is allowed")
    return given


def main() -> None:
    arguments = parse()
    run(compare if arguments.results is None else compare_trials, arguments)


if __name__ == "__main__":
    main()
