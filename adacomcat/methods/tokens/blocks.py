"""Blocks of a committed model, which prune and merge tokens between attention and MLP.

Shapes: B batch, N tokens that come in, N' tokens that a block leaves, T tokens that enter the first
block, C channels.

DiffRate (arXiv 2305.17997, section 3.1) in static shapes: every count is known beforehand, so that
the model compiles and exports as one graph. What differs from the original: attention is fused, and
only blocks that compress work out importances, from the rows of the scoring tokens alone; blocks
that change nothing cost nothing more than dense ones.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.methods.tokens.compress import (
    Match,
    Move,
    SizeRule,
    attention_rows,
    given,
    importance,
    keep,
    match,
    merge,
    put_back,
    size_bias,
    sources,
    take,
)
from adacomcat.methods.tokens.rates import Rates, Step
from adacomcat.models.heads import BlockContainer, attend
from adacomcat.models.tokens import TokenSequence


class TokenBlocks(BlockContainer):
    """Blocks that leave fewer tokens than they take: (B, T, C) -> (B, N', C).

    It stands where the model had its blocks and holds the same ones under the same names. Where the
    head averages over patches, those that it returns carry their weights: their plain mean is the
    mean by sizes. With `form.merges_only` all T tokens come out, merged ones as copies.

    Attributes:
        rates: as given; `steps` are the counts that come of them.
        form: what is special about the model's tokens.
        sizes: `exact` or `reference`, see `DiffRateConfig.sizes`.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        rates: Rates,
        form: TokenSequence,
        sizes: Literal["exact", "reference"] = "exact",
    ) -> None:
        """Take the blocks as they are.

        Raises:
            ValueError: rates of another depth, or counts that leave no patch.
        """
        super().__init__(*blocks)
        check_rates(rates, form)
        self.rates, self.form, self.sizes = rates, form, sizes
        self.steps = rates.steps(form.tokens)

    def forward(self, x: Tensor) -> Tensor:
        x, sizes, moves = self.run(x)
        if self.form.merges_only:
            return put_back(x, moves)
        if sizes is None or not self.form.pooled:
            return x
        first, patches = x[:, : self.form.prefix], x[:, self.form.prefix :]
        weights = sizes[:, self.form.prefix :]
        weights = weights / weights.mean(1, keepdim=True)
        return torch.cat([first, patches * weights[..., None].to(x.dtype)], dim=1)

    def trace(self, x: Tensor) -> list[Tensor]:
        """Source tokens of each token after every block.

        Args:
            x: (B, T, C), as they enter the first block.

        Returns:
            Masks (B, N', T), one a block; a token that was dropped is in no row.
        """
        _, _, moves = self.run(x)
        return sources(moves, torch.eye(x.shape[1], device=x.device).expand(x.shape[0], -1, -1))

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None, list[Move | None]]:
        """All blocks, without the restoration for the head.

        Args:
            x: (B, T, C).

        Returns:
            Tokens (B, N', C), their sizes (B, N') in float32 (None: all 1), and what each block did
            to their order (None: nothing).
        """
        assert x.shape[1] == self.form.tokens
        sizes: Tensor | None = None
        moves: list[Move | None] = []
        halves = self.form.steps
        for block, step in zip(self, self.steps, strict=True):
            move = None
            if step.compresses:
                x, scores = self._attended(block, x, sizes)
                x, sizes, move = self._compressed(x, sizes, scores, step)
                x = halves.add_mlp(block, x)
            elif sizes is None:
                x = block(x)
            else:
                q, k, v = halves.project(block, x)
                heads = self._heads(block, q, k, v, size_bias(sizes, q.dtype))
                x = halves.add_attention(block, x, halves.finish(block, heads))
                x = halves.add_mlp(block, x)
            moves.append(move)
        return x, sizes, moves

    def _attended(self, block: nn.Module, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens after the attention of a block, and their importance (B, N)."""
        halves, scoring = self.form.steps, self.form.scoring
        q, k, v = halves.project(block, x)
        scale = halves.scale(block)
        if scoring:
            rows = attention_rows(q[:, :, :scoring].detach(), k.detach(), scale, sizes)
            bias = None if sizes is None else size_bias(sizes, q.dtype)
            heads = self._heads(block, q, k, v, bias)
        else:
            # The whole matrix is needed, which fused attention does not give.
            rows = attention_rows(q, k, scale, sizes)
            dropped = nn.functional.dropout(rows, halves.dropout(block))
            heads = dropped.to(v.dtype) @ v
        x = halves.add_attention(block, x, halves.finish(block, heads))
        return x, importance(rows.detach())

    def _heads(
        self, block: nn.Module, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Fused attention of a block's heads, (B, H, N, e).

        Args:
            block: whose scale and dropout count.
            q, k: (B, H, N, d).
            v: (B, H, N, e).
            bias: added to the scores, (B, 1, 1, N) in the type of `q`.
        """
        scale, dropped = self.form.steps.scale(block), self.form.steps.dropout(block)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        heads = attend(q, k, v, scale=scale, attn_mask=bias, dropout_p=dropped)
        return heads.transpose(1, 2)

    def _compressed(
        self, x: Tensor, sizes: Tensor | None, scores: Tensor, step: Step
    ) -> tuple[Tensor, Tensor | None, Move]:
        form = self.form
        rows = keep(scores, step.pruned, form.prefix)
        x = take(x, rows)
        if sizes is not None:
            sizes = take(sizes, rows)
        if not step.merges:
            return x, sizes, Move(rows, None, 0)
        fixed = fixed_rows(form)
        if sizes is None:
            sizes = torch.ones(rows.shape, device=x.device)
        found: Match = match(x.detach(), step.after, fixed)
        rule: SizeRule = "sums" if form.merges_only else self.sizes
        added = given(sizes[:, step.after :], found.cosine, rule)
        x, sizes = merge(x, sizes, found, added, fixed)
        return x, sizes, Move(rows, found.target, fixed)


def fixed_rows(form: TokenSequence) -> int:
    """Tokens in front, by importance, that take in no other."""
    return form.prefix + 1 if form.merges_only else form.prefix


def check_rates(rates: Rates, form: TokenSequence) -> None:
    """Whether a model of this form can have these rates.

    Raises:
        ValueError: of another depth, counts that leave no patch or nothing to merge into, or
            pruning where tokens are only merged.
    """
    for kind, counts in (("prune", rates.prune), ("merge", rates.merge)):
        require(
            len(counts) == form.depth, f"rates.{kind}", f"{len(counts)} counts", f"{form.depth}"
        )
    for block, step in enumerate(rates.steps(form.tokens)):
        pruned = step.pruned < step.before
        site = form.site(block, "prune")
        allowed = "None: tokens of this model are merged, not pruned"
        require(not (pruned and form.merges_only), site, rates.prune[block], allowed)
        least = form.prefix + 1
        require(step.pruned >= least, site, rates.prune[block], f"{least} or more")
        least = fixed_rows(form) + 1 if step.merges else least
        site = form.site(block, "merge")
        require(step.after >= least, site, rates.merge[block], f"{least} or more")
