"""Images a second of a model whose tokens are pruned and merged, against timm's dense model.

    python benchmarks/inference_tokens.py
    python benchmarks/inference_tokens.py --rate 2.3 --modes eager onnxruntime
    python benchmarks/inference_tokens.py --device cuda --batch-sizes 8 256 --dtypes bfloat16

The counts are those that DiffRate published for a model and a rate, in billions of MACs. In a model
that `--depth` or `--image-size` cut down, a block keeps the same share of its patches as the one at
its place in the whole model. `bfloat16` converts the weights as well. Compiled is `torch.compile`,
whose compilation is not in the times; `onnxruntime` runs the exported file, on the CPU in float32.
Ratios are taken round by round against dense in the same mode.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from inference import COMPILED, DENSE, DTYPES, EAGER, MODES, ONNX, SMALL, measured
from models import add_sizes, drawn_model
from record import write_record
from timing import Bar, parser_of, positive, print_bars, print_table, run, settings_of

from adacomcat.cost import count_macs
from adacomcat.io.export import require_packages
from adacomcat.methods.tokens.form import TokenForm
from adacomcat.methods.tokens.rates import Rates, published_at
from adacomcat.methods.tokens.spec import shape_, shapes_for
from adacomcat.models.timm_vit import input_shape
from adacomcat.models.token_forms import describe_tokens
from adacomcat.timing import Times

FEWER = "fewer tokens"
KINDS = (DENSE, FEWER)
BAR_RATE, BAR_BATCH, BAR = 2.9, 8, 1.5


def rates_for(form: TokenForm, published: Rates) -> Rates:
    """Published counts for a model of another depth or with another number of patches.

    Those of the published model where neither differs; its counts have one prefix token.
    """

    def scaled(counts: tuple[int | None, ...]) -> tuple[int | None, ...]:
        patches = [count - 1 for count in counts if count is not None]
        picked = [patches[block * len(patches) // form.depth] for block in range(form.depth)]
        # Rounded up, in integers: what is not cut down keeps its counts.
        return tuple(form.prefix - -kept * form.patches // max(patches) for kept in picked)

    return Rates(scaled(published.prune), scaled(published.merge))


def built_models(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kind -> model, in float32.

    Raises:
        ValueError: no rates are published for the model, or not this one.
    """
    models = {kind: drawn_model(arguments) for kind in KINDS}
    model = models[FEWER]
    form = describe_tokens(model)
    rates = rates_for(form, published_at(arguments.model, arguments.rate))
    shape_(model, shapes_for(model, rates))
    return models


def _row(mode: str, dtype: str, batch_size: int, times: dict[str, Times]) -> dict[str, Any]:
    return {
        "mode": mode,
        "dtype": dtype,
        "batch_size": batch_size,
        "images_per_s": {kind: batch_size / found.median for kind, found in times.items()},
        "over_dense": times[DENSE].over(times[FEWER]).to_json(),
        "times": {kind: found.to_json() for kind, found in times.items()},
    }


def bars(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Iterator[Bar]:
    """What DeiT-Small at 2.9 billion MACs has to reach, whole and on a CPU."""
    whole = arguments.depth is None and arguments.image_size is None
    if not whole or (arguments.model, arguments.rate) != (SMALL, BAR_RATE):
        return
    for row in rows:
        where = f"{row['mode']}, {row['dtype']}, batch {row['batch_size']}"
        settled = row["dtype"] == "float32" and row["batch_size"] == BAR_BATCH
        if arguments.device == "cpu" and settled and row["mode"] != ONNX:
            yield Bar(where, row["over_dense"]["median_s"], "at least", BAR)


def compare(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the record."""
    if ONNX in arguments.modes:
        require_packages("onnx", "onnxscript", "onnxruntime")
    models = built_models(arguments)
    macs = {kind: count_macs(model, input_shape(model)) for kind, model in models.items()}
    del models
    for kind, count in macs.items():
        print(f"{kind}: {count:,} MACs an image")
    print(f"ratio: {macs[DENSE] / macs[FEWER]:.3f}")
    rows = []
    for row in measured(arguments, built_models, _row):
        rows.append(row)
        print(
            f"measured: {row['mode']}, {row['dtype']}, batch {row['batch_size']}", file=sys.stderr
        )
    titles = ["mode", "type", "batch", *(f"{kind}/s" for kind in KINDS), "ratio", "IQR"]
    print_table(titles, [_cells(row) for row in rows])
    reached = list(bars(rows, arguments))
    print_bars(reached)
    write_record(
        arguments.output,
        "inference_tokens",
        settings_of(arguments),
        macs=macs,
        rows=rows,
        bars=[bar.to_json() for bar in reached],
    )


def _cells(row: dict[str, Any]) -> list[object]:
    over = row["over_dense"]
    speeds = [row["images_per_s"][kind] for kind in KINDS]
    ratio, spread = f"x{over['median_s']:.2f}", f"{over['q3_s'] - over['q1_s']:.2f}"
    return [row["mode"], row["dtype"], row["batch_size"], *speeds, ratio, spread]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_of(
        __doc__, benchmark="inference_tokens", model=SMALL, batch_size=None, repeats=11
    )
    add_sizes(parser)
    add = parser.add_argument
    add("--rate", type=float, default=BAR_RATE, help="published, billions of MACs (default: 2.9)")
    add("--batch-sizes", type=positive, nargs="+", default=[BAR_BATCH], help="(default: 8)")
    add("--dtypes", choices=tuple(DTYPES), nargs="+", default=["float32"])
    modes = (EAGER, COMPILED)
    add("--modes", choices=MODES, nargs="+", default=modes, help="(default: eager compiled)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(compare, parse())
