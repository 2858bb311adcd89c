"""MACs of the blocks as a function of token counts, in integers and differentiable.

MACs are as `adacomcat.cost` counts them, an image: every matrix product, of the matching too. The
formula of the paper is here beside it, since published rates are named by it; it counts attention
and MLP by the width alone.

DiffRate (arXiv 2305.17997, section 3.3, equation 8).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from adacomcat.methods.tokens.blocks import fixed_rows
from adacomcat.methods.tokens.counts import through
from adacomcat.methods.tokens.rates import Step
from adacomcat.models.registry import family_of
from adacomcat.models.tokens import TokenSequence

Number = int | float | Tensor
MinGradient = Literal["active", "both"]
Places = Sequence[tuple[int | None, int | None]]
"""Rows of each block's prune and merge sites among the counts; None: no such site."""


@dataclass(frozen=True)
class BlockCost:
    """MACs of one block; tensors where a search of ranks changes them.

    Attributes:
        linear: of the attention's linear layers, a token.
        square: of the attention's two products, a pair of tokens.
        mlp: of the MLP, a token.
        score: of the rows that say how important tokens are, a token; only a block that compresses
            has them, and none where the attention has all rows anyway.
        width: channels of a token, which the matching multiplies.
    """

    linear: Number
    square: Number
    mlp: Number
    score: Number
    width: int


def block_costs(model: nn.Module, form: TokenSequence) -> list[BlockCost]:
    """Read the costs off a model's blocks, dense or low-rank ones."""
    costs = []
    for block in model.get_submodule(form.container).children():
        scores, values = form.steps.widths(block)
        costs.append(
            BlockCost(
                linear=_weights(form.steps.attention(block)),
                square=scores + values,
                mlp=_weights(form.steps.mlp(block)),
                score=form.scoring * scores,
                width=form.width,
            )
        )
    return costs


def count(costs: Sequence[BlockCost], steps: Sequence[Step], form: TokenSequence) -> Number:
    """MACs of all blocks at these counts; exact where the costs are integers."""
    works = [
        _work(cost, step.before, step.pruned, step.after, form)
        for cost, step in zip(costs, steps, strict=True)
    ]
    return sum(works[1:], works[0])


def expected(
    costs: Sequence[BlockCost],
    form: TokenSequence,
    kept: Tensor,
    places: Places,
    min_gradient: MinGradient,
) -> Tensor:
    """MACs of all blocks at counts that carry gradients.

    The value is that of `count`. What a block leaves is the minimum of what it takes and of its two
    counts. The gradient of that minimum goes to its smaller count (half to each of equal ones) or
    to both, even where the block leaves all that it takes: with the exact gradient, of that case
    zero, a count that once lies above the one before it would never come back.

    Args:
        costs: of the blocks.
        form: of the model.
        kept: (S,), tokens kept by site.
        places: of the blocks' sites in `kept`.
        min_gradient: see `DiffRateConfig`. With `both`, as published, a block without sites passes
            no gradient on to the counts before it; otherwise it does.

    Returns:
        A tensor of shape ().
    """
    total = kept.new_zeros(())
    before = kept.new_tensor(form.tokens)
    for cost, place in zip(costs, places, strict=True):
        found = [kept[row] for row in place if row is not None]
        after = functools.reduce(torch.minimum, found, before)
        pruned = before
        if found:
            # Of the two alone, without what comes in.
            lesser = functools.reduce(torch.minimum, found)
            after = through(after, lesser if min_gradient == "active" else torch.stack(found).sum())
        elif min_gradient == "both":
            after = after.detach()
        if place[0] is not None:
            pruned = through(torch.minimum(before, kept[place[0]]), kept[place[0]])
        total = total + _work(cost, before, pruned, after, form)
        before = after
    return total


def by_width(costs: Sequence[BlockCost]) -> list[BlockCost]:
    """Blocks as the paper counts them: an MLP of four times the width, and no matching."""
    widths = [cost.width for cost in costs]
    return [BlockCost(4 * width**2, 2 * width, 8 * width**2, 0, 0) for width in widths]


def published(model: nn.Module, form: TokenSequence, steps: Sequence[Step]) -> int:
    """MACs of a whole model by the formula of the paper, by which published rates are named.

    Class tokens count as patches in the patch embedding; a CAFormer's grids halve evenly.
    """
    blocks = count(by_width(block_costs(model, form)), steps, form)
    return int(blocks) + family_of(model).macs_outside_by_width(model, form)


def _work(
    cost: BlockCost, before: Number, pruned: Number, after: Number, form: TokenSequence
) -> Number:
    """MACs of one block; tensors are never copied from the device."""
    taking = after - fixed_rows(form)
    # The similarity of sources and destinations, and the product that merges them.
    matching = (after < pruned) * (2 * cost.width * taking * (pruned - after))
    scores = (after < before) * (cost.score * before)
    attention = cost.linear * before + cost.square * before * before
    return attention + scores + matching + cost.mlp * after


def _weights(module: nn.Module) -> int:
    """Elements of all matrices of linear layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
