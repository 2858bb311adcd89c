"""Supernet of token counts: all tokens stay, and masks mark those that would be left.

Shapes: B batch, T tokens that enter the first block (and leave the last), C channels, H heads.

DiffRate (arXiv 2305.17997, section 3.3; the mask in the attention after DynamicViT, arXiv
2106.02034). Tokens of a block that compresses are put in the order of importance, so that live ones
come first, and what a committed model drops gets a mask of zero, whose gradient is that of the
probability to survive. What differs from the original: blocks that change nothing sort nothing, a
dead token never comes before a live one, and sizes (`exact` ones) are those of the committed model.
Models that only merge work too, and those without a class token.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adacomcat.methods.tokens.blocks import fixed_rows
from adacomcat.methods.tokens.compress import (
    SizeRule,
    given,
    importance,
    keep,
    match,
    merge,
    size_bias,
    take,
)
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.counts import Counts, through
from adacomcat.methods.tokens.macs import Places
from adacomcat.models.heads import BlockContainer
from adacomcat.models.tokens import TokenSequence

EPSILON = 1e-6
"""Weight of attention that is spread over all keys, dead ones too, so that no row is empty."""


class State(NamedTuple):
    """Tokens between two blocks.

    Attributes:
        x: (B, T, C).
        sizes: (B, T), in float32.
        mask: (B, T), 1 where a token is alive, 0 where it was dropped.
        live: tokens of an image that are alive, which are the first.
        place: (B, T), which of the first block's tokens each one is.
        heir: (B, T), which of these stands for each of them.
    """

    x: Tensor
    sizes: Tensor
    mask: Tensor
    live: int
    place: Tensor
    heir: Tensor


class SearchBlocks(BlockContainer):
    """Blocks that drop tokens by masks at the counts of a search: (B, T, C) -> (B, T, C).

    It stands where the model had its blocks and holds the same ones under the same names. Where the
    head averages over patches, those that it returns carry their weights, as with `TokenBlocks`.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        counts: Counts,
        form: TokenSequence,
        config: DiffRateConfig,
        places: Places,
    ) -> None:
        super().__init__(*blocks)
        assert len(self) == len(places) == form.depth
        self.form = form
        self.places = tuple(places)
        self.bounded = config.mask_gradient == "bounded"
        self.rule: SizeRule = "sums" if form.merges_only else config.sizes
        # Without scoring tokens all count, the dead ones too where that is asked for.
        self.scoring = form.scoring or (form.tokens if config.sizes == "reference" else None)
        # In a list, so that the counts are no submodule and stay out of the model's state.
        self._counts = [counts]

    def forward(self, x: Tensor) -> Tensor:
        *_, state = self.states(x)
        if state.live == self.form.tokens:
            return state.x
        if self.form.merges_only:
            return _put_back(state)
        return _weighted(state, self.form.prefix) if self.form.pooled else state.x

    def states(self, x: Tensor) -> Iterator[State]:
        """Remaining tokens after each block, from tokens (B, T, C)."""
        batch, tokens, _ = x.shape
        assert tokens == self.form.tokens
        ones = torch.ones(batch, tokens, device=x.device)
        place = torch.arange(tokens, device=x.device).expand(batch, -1)
        state = State(x, ones, ones, tokens, place, place)
        for block, rows in zip(self, self.places, strict=True):
            state = self._after(block, *rows, state)
            yield state

    def _after(
        self, block: nn.Module, prune_row: int | None, merge_row: int | None, state: State
    ) -> State:
        halves = self.form.steps
        pruned, merged = self._kept(prune_row), self._kept(merge_row)
        if min(pruned, merged) < state.live:
            x, scores = self._attended(block, state)
            state = self._sorted(state._replace(x=x), scores)
            if pruned < state.live:
                state = self._dropped(state, prune_row, pruned)
            if merged < state.live:
                state = self._dropped(self._merged(state, merged), merge_row, merged)
            x = halves.add_mlp(block, state.x)
        elif state.live < self.form.tokens:
            x = halves.add_mlp(block, self._attended(block, state)[0])
        else:
            x = block(state.x)
        return state._replace(x=x)

    def _kept(self, row: int | None) -> int:
        return self.form.tokens if row is None else self._counts[0].counts()[row]

    def _attended(self, block: nn.Module, state: State) -> tuple[Tensor, Tensor]:
        """Tokens after the attention of a block, and their importance (B, T)."""
        halves = self.form.steps
        q, k, v = halves.project(block, state.x)
        masked = _bounded_attention if self.bounded else _reference_attention
        rows = masked(q * halves.scale(block), k, state)
        heads = F.dropout(rows, halves.dropout(block)).to(v.dtype) @ v
        x = halves.add_attention(block, state.x, halves.finish(block, heads))
        return x, importance(rows.detach()[:, :, : self.scoring or state.live])

    def _sorted(self, state: State, scores: Tensor) -> State:
        """Live tokens by falling importance; dead ones stay behind them."""
        live = state.live
        rows = keep(scores[:, :live], live, self.form.prefix)
        dead = torch.arange(live, self.form.tokens, device=rows.device).expand(rows.shape[0], -1)
        rows = torch.cat([rows, dead], dim=1)
        x, sizes, mask, place = (
            take(t, rows) for t in (state.x, state.sizes, state.mask, state.place)
        )
        return state._replace(x=x, sizes=sizes, mask=mask, place=place)

    def _dropped(self, state: State, row: int | None, kept: int) -> State:
        """Keep only the first `kept` tokens, with the probabilities in a row of the counts."""
        rank = torch.arange(self.form.tokens, device=state.x.device)
        # Those that older masks hold are left to them.
        alive = (rank < kept) | (rank >= state.live)
        survival = self._counts[0].survival[row]
        mask = through(alive.to(survival.dtype), survival)
        return state._replace(mask=state.mask * mask, live=kept)

    def _merged(self, state: State, kept: int) -> State:
        """The first `kept` tokens take in the other live ones, which stay as they are."""
        live, fixed = state.live, fixed_rows(self.form)
        found = match(state.x[:, :live].detach(), kept, fixed)
        added, left = given(state.sizes[:, kept:live], found.cosine, self.rule), state.sizes
        if self.rule == "reference":
            # There the sizes of dead tokens change too, and the gradients of their masks with them.
            added = added.clamp(min=1.0)
            left = torch.cat([left[:, :kept], added, left[:, live:]], dim=1)
        joined, grown = merge(state.x[:, :live], state.sizes[:, :live], found, added, fixed)
        heirs = take(state.place, found.target + fixed)
        heir = state.heir.scatter(1, state.place[:, kept:live], heirs)
        return state._replace(
            x=torch.cat([joined, state.x[:, kept:]], dim=1),
            sizes=torch.cat([grown, left[:, kept:]], dim=1),
            # Those who had left theirs to a token that is merged now follow it.
            heir=heir.gather(1, heir),
        )


def _bounded_attention(q: Tensor, k: Tensor, state: State) -> Tensor:
    """Attention (B, H, T, T) in float32: to live tokens, of a dead one to itself too.

    The gradient of a dead key's mask is that of its whole return, `e / (sum + e)` with e its weight
    and `sum` that of the live keys. The derivative at a mask of zero, `e / sum`, has no bound:
    where a query looks at one dead token above all it can be a million, and what it extrapolates to
    is nothing that a mask of one could do.
    """
    scores = (q @ k.mT).float()
    scores = scores + size_bias(state.sizes, scores.dtype)
    rank = torch.arange(scores.shape[-1], device=scores.device)
    alive = (rank < state.live) | (rank == rank[:, None])
    sums = scores.masked_fill(~alive, -torch.inf).logsumexp(-1, keepdim=True)
    returned = torch.where(alive, (scores - sums).clamp(max=0.0).exp(), (scores - sums).sigmoid())
    # One or zero, with the gradient of the mask; a token's own key has none.
    mask = through(alive.to(scores.dtype), state.mask[:, None, None])
    weights = returned * torch.where(rank == rank[:, None], mask.detach(), mask)
    return weights / weights.sum(-1, keepdim=True)


def _reference_attention(q: Tensor, k: Tensor, state: State) -> Tensor:
    """Published attention: weights of all keys, scaled by the largest of them, times the masks."""
    scores = (q @ k.mT).float()
    scores = scores + size_bias(state.sizes, scores.dtype)
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    own = torch.eye(scores.shape[-1], device=scores.device)
    mask = state.mask[:, None, None]
    weights = weights * (mask + (1 - mask) * own)
    spread = EPSILON / scores.shape[-1]
    return (weights + spread) / (weights.sum(-1, keepdim=True) + EPSILON)


def _weighted(state: State, prefix: int) -> Tensor:
    """Tokens (B, T, C), patches weighted such that their plain mean is the mean by sizes."""
    weights = (state.sizes * state.mask)[:, prefix:]
    weights = weights / weights.detach().mean(1, keepdim=True)
    patches = state.x[:, prefix:] * weights[..., None].to(state.x.dtype)
    return torch.cat([state.x[:, :prefix], patches], dim=1)


def _put_back(state: State) -> Tensor:
    """All first tokens in their order (B, T, C), merged ones as copies of their heirs."""
    order = torch.arange(state.place.shape[1], device=state.x.device).expand_as(state.place)
    rows = torch.empty_like(state.place).scatter(1, state.place, order)
    own, mask = take(state.x, rows), take(state.mask, rows)[..., None].to(state.x.dtype)
    return mask * own + (1 - mask) * take(own, state.heir)
