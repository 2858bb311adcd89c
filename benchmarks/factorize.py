"""Factorization of attention: thin QRs and d x d SVDs against an SVD of each D x D product.

    python benchmarks/factorize.py
    python benchmarks/factorize.py --model deit_base_patch16_224 --device cuda

A head's products `Wq Wk^T` and `Wv Wo` are D x D of rank d. `thin` is what `adacomcat` does: two
QRs and one SVD of a d x d matrix, all heads of a block at once. `one by one` decomposes the product
of each head as ComCAT does (arXiv 2305.17235, section 3.2), `batched` those of a block in one call
of `torch.linalg.svd`. The truncated products must agree. `linear layers` is what the other sites
take, in the same way for all: they have no thin factors.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from models import add_sizes, drawn_model
from record import write_record
from timing import (
    TIME_TITLES,
    Bar,
    largest_difference,
    parser_of,
    positive,
    print_bars,
    print_table,
    run,
    settings_of,
    time_cells,
)
from torch import Tensor, nn

from adacomcat.methods.lowrank.attention import attention_factors
from adacomcat.methods.lowrank.factorize import decompose
from adacomcat.methods.lowrank.linear import decompose_linear
from adacomcat.models.registry import view_of
from adacomcat.timing import Variant, take_turns

THIN, ONE_BY_ONE, BATCHED, LINEAR = "thin", "one by one", "batched", "linear layers"
DIFFERENCE = 1e-3
"""Allowed difference of truncated products, relative to the largest value, in float32."""

Sides = tuple[Tensor, Tensor]
"""(H, D or D + 1, d) and (H, D, d): the factors of one kind of product of a block's heads."""


def sides_of(model: nn.Module) -> list[Sides]:
    """The factors of the qk and the vo products, block by block."""
    found: list[Sides] = []
    for name, view in view_of(model).attentions.items():
        heads = attention_factors(view, model.get_submodule(name), biases=True)
        found += [(heads.q, heads.k), (heads.v, heads.o)]
    return found


def thin(a: Tensor, b: Tensor, rank: int) -> Sides:
    """The products as factors of a rank, (H, m, r) and (H, n, r)."""
    spectrum = decompose(a, b)
    return spectrum.left[..., :rank], spectrum.right[..., :rank]


def batched(a: Tensor, b: Tensor, rank: int) -> Sides:
    """Likewise, by one call for all heads."""
    u, s, vh = torch.linalg.svd(a @ b.mT, full_matrices=False)
    return u[..., :rank] * s[..., None, :rank], vh[..., :rank, :].mT


def one_by_one(a: Tensor, b: Tensor, rank: int) -> Sides:
    """Likewise, head by head."""
    heads = [batched(own, other, rank) for own, other in zip(a, b, strict=True)]
    left, right = (torch.stack(side) for side in zip(*heads, strict=True))
    return left, right


Way = Callable[[Tensor, Tensor, int], Sides]
WAYS: dict[str, Way] = {THIN: thin, ONE_BY_ONE: one_by_one, BATCHED: batched}


def decompose_linears(layers: Sequence[nn.Module]) -> None:
    """Factorization of the linear sites."""
    for layer in layers:
        decompose_linear(layer, None, (None, None))


@torch.no_grad()
def compare(arguments: argparse.Namespace) -> None:
    """Measure all ways, print the table and write the record."""
    model = drawn_model(arguments)
    sides = sides_of(model)
    full = sides[0][1].shape[-1]
    rank = min(arguments.rank or full // 2, full)

    def whole(way: Way) -> list[Sides]:
        return [way(a, b, rank) for a, b in sides]

    expected = [left @ right.mT for left, right in whole(one_by_one)]
    differences = {}
    for name in (THIN, BATCHED):
        products = (left @ right.mT for left, right in whole(WAYS[name]))
        differences[name] = max(map(largest_difference, products, expected))
    variants: dict[str, Variant] = {name: partial(whole, way) for name, way in WAYS.items()}
    linears = [model.get_submodule(name) for name in view_of(model).linears]
    variants[LINEAR] = partial(decompose_linears, linears)
    times = take_turns(variants, repeats=arguments.repeats, device=arguments.device, warm_up=1)
    speedups = {n: times[n].over(times[THIN]).median for n in (ONE_BY_ONE, BATCHED)}
    rows = [(n, *time_cells(times[n]), speedups.get(n, "")) for n in variants]
    print_table((f"{len(sides)} x {len(expected[0])} products", *TIME_TITLES, "over thin"), rows)
    bars = [Bar(f"difference of {n}", v, "at most", DIFFERENCE) for n, v in differences.items()]
    print_bars(bars)
    write_record(
        arguments.output,
        "factorize",
        settings_of(arguments) | {"rank": rank},
        variants={name: found.to_json() for name, found in times.items()},
        speedups=speedups,
        bars=[bar.to_json() for bar in bars],
    )


def main() -> None:
    parser = parser_of(
        __doc__, benchmark="factorize", model="deit_small_patch16_224", batch_size=None, repeats=3
    )
    add_sizes(parser)
    parser.add_argument("--rank", type=positive, help="that a head keeps (default: half of d)")
    run(compare, parser.parse_args())


if __name__ == "__main__":
    main()
