"""What the blocks of a model cost at some counts of tokens: in integers, and with a gradient.

MACs are as `adacomcat.cost` counts them, an image: every matrix product, of the matching too. The
formula of the paper is here beside it, since published rates are named by it; it counts attention
and MLP by the width alone.

DiffRate (arXiv 2305.17997, section 3.3, equation 8).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from timm.models.metaformer import Attention, MetaFormer
from torch import Tensor, nn

from adacomcat.methods.tokens.attention import mixer
from adacomcat.methods.tokens.blocks import fixed_rows
from adacomcat.methods.tokens.counts import through
from adacomcat.methods.tokens.form import TokenForm
from adacomcat.methods.tokens.rates import Step
from adacomcat.models.token_forms import COMPRESSED

Number = int | float | Tensor
MinGradient = Literal["active", "both"]
Places = Sequence[tuple[int | None, int | None]]
"""By block: the rows of its prune and its merge site among the counts; None: no such site."""


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


def block_costs(model: nn.Module, form: TokenForm) -> list[BlockCost]:
    """Read the costs off a model's blocks, dense or low-rank ones."""
    costs = []
    for block in model.get_submodule(form.container).children():
        attention = mixer(block)
        assert isinstance(block.mlp, nn.Module)
        values = attention.proj.in_features
        scores = (attention.qkv.out_features - values) // 2
        costs.append(
            BlockCost(
                linear=_weights(attention),
                square=scores + values,
                mlp=_weights(block.mlp),
                score=form.scoring * scores,
                width=attention.proj.out_features,
            )
        )
    return costs


def count(costs: Sequence[BlockCost], steps: Sequence[Step], form: TokenForm) -> Number:
    """MACs of all blocks at these counts; exact where the costs are integers."""
    works = [
        _work(cost, step.before, step.pruned, step.after, form)
        for cost, step in zip(costs, steps, strict=True)
    ]
    return sum(works[1:], works[0])


def expected(
    costs: Sequence[BlockCost],
    form: TokenForm,
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


def published(model: nn.Module, form: TokenForm, steps: Sequence[Step]) -> int:
    """MACs of a whole model by the formula of the paper, by which published rates are named.

    Class tokens count as patches in the patch embedding; a CAFormer's grids halve evenly.
    """
    blocks = count(by_width(block_costs(model, form)), steps, form)
    rest = _caformer_rest if isinstance(model, MetaFormer) else _vision_transformer_rest
    return int(blocks) + rest(model, form)


def _work(
    cost: BlockCost, before: Number, pruned: Number, after: Number, form: TokenForm
) -> Number:
    """MACs of one block; with tensors the device is never asked for a value."""
    taking = after - fixed_rows(form)
    # The similarity of sources and destinations, and the product that merges them.
    matching = (after < pruned) * (2 * cost.width * taking * (pruned - after))
    scores = (after < before) * (cost.score * before)
    attention = cost.linear * before + cost.square * before * before
    return attention + scores + matching + cost.mlp * after


def _weights(module: nn.Module) -> int:
    """Elements of all matrices of linear layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _vision_transformer_rest(model: Any, form: TokenForm) -> int:
    embedding = model.patch_embed.proj.weight.numel()
    return int(form.tokens * embedding + model.embed_dim * model.num_classes)


def _caformer_rest(model: Any, form: TokenForm) -> int:
    """Convolutions, and the blocks outside the container."""
    convolutions = [model.stem.conv] + [
        getattr(stage.downsample, "conv", None) for stage in model.stages[1:]
    ]
    # Where two stages are of the same width timm does not downsample.
    halvings = list(accumulate(int(conv is not None) for conv in convolutions))
    total = 0
    for index, (stage, conv) in enumerate(zip(model.stages, convolutions, strict=True)):
        tokens = form.patches * 4 ** halvings[COMPRESSED] // 4 ** halvings[index]
        total += 0 if conv is None else tokens * conv.weight.numel()
        if index == COMPRESSED:
            continue
        width = stage.blocks[0].mlp.fc1.weight.shape[1]
        attends = isinstance(stage.blocks[0].token_mixer, Attention)
        # Attention's two products, or a convolution over 7 x 7 of twice the width.
        mixing = 2 * tokens * width if attends else 2 * 7 * 7 * width
        total += len(stage.blocks) * tokens * (12 * width**2 + mixing)
    return total + 8 * model.num_features * model.num_classes
