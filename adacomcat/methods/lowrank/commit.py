"""Modules of a committed site, and how optimizer state follows its parameters there."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from adacomcat.methods.base import Move
from adacomcat.methods.lowrank.attention import (
    Factors,
    build_attention,
    carry_heads,
    factors_of,
    heads_of,
    put_together,
    truncate_heads,
    without_value_bias,
)
from adacomcat.methods.lowrank.factorize import Spectrum
from adacomcat.methods.lowrank.linear import build_linear, carry_bias, carry_linear, merge_linear
from adacomcat.models.base import AttentionView


def committed_linear(
    module: nn.Module, spectrum: Spectrum, rank: int, *, to_dense: bool
) -> tuple[nn.Module, Move]:
    """A linear layer at a rank, and the move of its parameters.

    Args:
        module: dense or low-rank.
        spectrum: of the module.
        rank: columns of the spectrum that are kept.
        to_dense: multiply the factors into one matrix.
    """
    factors = build_linear(module, spectrum, rank)
    new = merge_linear(factors) if to_dense else factors
    carry = carry_bias if to_dense else partial(carry_linear, spectrum=spectrum, rank=rank)
    return new, Move(dict(module.named_parameters()), dict(new.named_parameters()), carry)


def committed_attention(
    view: AttentionView,
    module: nn.Module,
    parts: Factors,
    spectra: Mapping[str, Spectrum],
    ranks: Mapping[str, int],
    *,
    biases: bool,
) -> tuple[nn.Module, Move]:
    """An attention with products at new ranks, and the move of its parameters.

    Args:
        view: of the dense attention.
        module: its present form.
        parts: the factors of `module`.
        spectra: kind (`qk`, `vo`) of each product that changes -> its spectrum.
        ranks: kind -> columns a head that are kept.
        biases: whether biases of queries and values fold into the factors.
    """
    for kind, spectrum in spectra.items():
        parts = truncate_heads(parts, kind, spectrum, ranks[kind])
    new = build_attention(view, module, parts)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    value_bias = heads_of(view, module, weights).v_bias

    def carry(state: Mapping[str, Tensor], power: int) -> dict[str, Tensor]:
        heads = heads_of(view, module, state)
        moments = factors_of(heads, biases=biases, key_bias="qk" not in view.products)
        if power == 1:
            moments = without_value_bias(moments, heads, value_bias)
        for kind, spectrum in spectra.items():
            moments = carry_heads(moments, power, kind, spectrum, ranks[kind])
        return put_together(moments)

    # The module between queries and keys stays, with its parameters.
    kept = [] if new.between is None else [id(p) for p in new.between.parameters()]
    old = {n: p for n, p in module.named_parameters() if id(p) not in kept}
    made = {n: p for n, p in new.named_parameters() if id(p) not in kept}
    return new, Move(old, made, carry)
