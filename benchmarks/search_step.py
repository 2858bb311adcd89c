"""One search step: the supernet's single product against candidates computed one by one.

    python benchmarks/search_step.py
    python benchmarks/search_step.py --model deit_tiny_patch16_224 --batch-size 16 --threads 4
    python benchmarks/search_step.py --device cuda --dtype bfloat16 --batch-size 64

A step draws the mixture, runs the images forward, takes the cross-entropy and goes back to the
logits; weights take no gradient. `plain` and `one product` use the same random model, the same
spectra (the published menus, biases kept) and the same draw, so that logits and gradients must
agree. `plain` is ComCAT's search as the paper writes it (arXiv 2305.17235, equation 8): a head's
scores are the weighted sum over its candidates of `x (W_qk,r) x^T`, its outputs that of
`attention x W_vo,r`, and a linear layer's that of `x W_r`, with W_r the truncated matrix, whole and
computed beforehand. `dense` is the least that a step could be expected to cost: the dense model
forward, and back to the activations of its first block, weights without a gradient.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from memory import TITLES, Memory, memory_of, memory_of_call
from models import add_sizes, drawn_batch, drawn_model, published_space
from record import write_record
from timing import (
    TIME_TITLES,
    Bar,
    largest_difference,
    parser_of,
    precision,
    print_bars,
    print_table,
    run,
    settings_of,
    time_cells,
)
from torch import Tensor, nn

from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.supernet import Mixture, SupernetAttention, SupernetLinear
from adacomcat.timing import Times, take_turns

PLAIN, OURS, DENSE = "plain", "one product", "dense"
VARIANTS = (PLAIN, OURS, DENSE)
SPEEDUP = {"cpu": 10.0, "cuda": 15.0}
OVER_DENSE = 1.25
MEMORY_RATIO = 3.0
DIFFERENCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Allowed difference of logits and gradients, over the largest value; bfloat16 has 8 bits."""

Outcome = tuple[Tensor, Tensor]
"""(B, classes) logits, and the gradient that the step is for."""


def truncated(left: Tensor, right: Tensor, ranks: list[int]) -> list[Tensor]:
    """The whole matrices (m, n) that columns (m, k) and (n, k) stand for, one a rank."""
    return [left[:, :rank] @ right[:, :rank].T for rank in ranks]


class PlainAttention(nn.Module):
    """Attention with the mixture written out: head by head, candidate by candidate."""

    def __init__(self, fast: SupernetAttention, mixture: Mixture) -> None:
        super().__init__()
        heads, width = fast.num_heads, fast.qkv.shape[1]
        score, value = (heads * columns for columns in fast.columns)
        q, k, v = fast.qkv.split((score, score, value))
        # The query's bias is one more row of its matrix, for an input that is always one.
        bias = fast.get_buffer("q_bias")
        q = torch.cat([q.T, bias[None]]).view(width + 1, heads, -1)
        k, v = k.T.view(width, heads, -1), v.T.view(width, heads, -1)
        o = fast.proj.view(width, heads, -1)
        self.rows = fast.rows
        self.qk, self.vo = (
            [truncated(left[:, h], right[:, h], _ranks(mixture, row)) for h in range(heads)]
            for left, right, row in ((q, k, self.rows[0]), (v, o, self.rows[1]))
        )
        self.scale, self.out_bias, self.mixture = fast.scale, fast.get_buffer("out_bias"), [mixture]

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        qk_weights, vo_weights = (self.mixture[0].weights[row] for row in self.rows)
        output = self.out_bias
        for score_matrices, value_matrices in zip(self.qk, self.vo, strict=True):
            scores: Any = 0
            for weight, matrix in zip(qk_weights, score_matrices, strict=False):
                scores = scores + weight * ((x @ matrix[:-1] + matrix[-1]) @ x.mT)
            attention = (scores * self.scale).softmax(-1)
            for weight, matrix in zip(vo_weights, value_matrices, strict=False):
                output = output + weight * (attention @ (x @ matrix))
        return output


class PlainLinear(nn.Module):
    """A linear layer with the mixture written out."""

    def __init__(self, fast: SupernetLinear, mixture: Mixture) -> None:
        super().__init__()
        self.matrices = truncated(fast.first.T, fast.last, _ranks(mixture, fast.row))
        self.row, self.bias, self.mixture = fast.row, fast.get_buffer("bias"), [mixture]

    def forward(self, x: Tensor) -> Tensor:
        output = self.bias
        weights = self.mixture[0].weights[self.row]
        for weight, matrix in zip(weights, self.matrices, strict=False):
            output = output + weight * (x @ matrix)
        return output


def _ranks(mixture: Mixture, row: int | None) -> list[int]:
    assert row is not None
    site = mixture.sites[row]
    return [candidate.rank // site.groups for candidate in site.candidates]


def write_out_(method: LowRank) -> None:
    """Replace each site of a searchable model by its plain mixture."""
    for name, module in list(method.model.named_modules()):
        if isinstance(module, SupernetAttention):
            method.model.set_submodule(name, PlainAttention(module, method.mixture))
        elif isinstance(module, SupernetLinear):
            method.model.set_submodule(name, PlainLinear(module, method.mixture))


def step_of(variant: str, arguments: argparse.Namespace) -> Callable[[], Outcome]:
    """One step of a variant, on a model of its own."""
    model = drawn_model(arguments)
    images, labels = drawn_batch(model, arguments.batch_size, arguments.device)
    begin, wanted = _dense_(model) if variant == DENSE else _searchable_(model, variant == PLAIN)

    def step() -> Outcome:
        begin()
        with precision(arguments):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        gradient = wanted().grad
        assert gradient is not None
        return logits.detach().float(), gradient

    return step


def _searchable_(model: Any, plain: bool) -> tuple[Callable[[], None], Callable[[], Tensor]]:
    """Inputs of a step, and the logits of the mixture."""
    method = published_space(model)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noise = torch.randn(method.mixture.logits.shape, generator=source)
        method.mixture.logits.copy_(noise)
    method.prepare_()
    if plain:
        with torch.no_grad():
            write_out_(method)

    def begin() -> None:
        method.mixture.logits.grad = None
        method.sample_(1.0, torch.Generator().manual_seed(1))

    return begin, lambda: method.mixture.logits


def _dense_(model: Any) -> tuple[Callable[[], None], Callable[[], Tensor]]:
    """Nothing to begin with, and what the first block is given."""
    model.requires_grad_(False)
    given: list[Tensor] = []

    def start_here(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        given[:] = [inputs[0].detach().requires_grad_()]
        return given[0]

    model.blocks[0].register_forward_pre_hook(start_here)
    return lambda: None, lambda: given[0]


def bars_of(
    times: Mapping[str, Times],
    memory: Mapping[str, Memory],
    differences: Mapping[str, float],
    arguments: argparse.Namespace,
) -> list[Bar]:
    """Targets of the comparison."""
    plain, ours = memory[PLAIN], memory[OURS]
    speedup = times[PLAIN].over(times[OURS]).median
    over_dense = times[OURS].over(times[DENSE]).median
    process, call = plain.peak_bytes / ours.peak_bytes, plain.call_bytes / ours.call_bytes
    allowed = DIFFERENCE[arguments.dtype]
    return [
        Bar("times as fast as plain", speedup, "at least", SPEEDUP[arguments.device]),
        Bar("times as long as dense", over_dense, "at most", OVER_DENSE),
        Bar("plain's peak memory over ours", process, "at least", MEMORY_RATIO),
        Bar("plain's memory of a step over ours", call, "at least", MEMORY_RATIO),
        *(Bar(f"difference of {n}", v, "at most", allowed) for n, v in differences.items()),
    ]


def compare(arguments: argparse.Namespace) -> None:
    """Measure all variants, print the table and write the record."""
    steps = {variant: step_of(variant, arguments) for variant in VARIANTS}
    pairs = zip(steps[OURS](), steps[PLAIN](), strict=True)
    names = ("logits", "logit gradients")
    found = (largest_difference(ours, plain) for ours, plain in pairs)
    differences = dict(zip(names, found, strict=True))
    times = take_turns(steps, repeats=arguments.repeats, device=arguments.device)
    steps.clear()
    memory = {variant: memory_of(__file__, variant, arguments) for variant in VARIANTS}
    rows = [(v, *time_cells(times[v]), *memory[v].cells) for v in VARIANTS]
    print_table(("variant", *TIME_TITLES, *TITLES), rows)
    bars = bars_of(times, memory, differences, arguments)
    print_bars(bars)
    write_record(
        arguments.output,
        "search_step",
        settings_of(arguments),
        variants={v: times[v].to_json() | vars(memory[v]) for v in VARIANTS},
        bars=[bar.to_json() for bar in bars],
    )


def main() -> None:
    parser = parser_of(
        __doc__, benchmark="search_step", model="deit_small_patch16_224", batch_size=8, repeats=5
    )
    add_sizes(parser)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    run(compare if arguments.variant is None else _memory_of_variant, arguments)


def _memory_of_variant(arguments: argparse.Namespace) -> None:
    memory_of_call(step_of(arguments.variant, arguments), arguments)


if __name__ == "__main__":
    main()
