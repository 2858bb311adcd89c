"""Token sequences of models, and blocks computed in halves, for methods that change the tokens.

Shapes: B batch, N tokens, D channels of a token, H heads, d width of a query and key head, e width
of a value head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from adacomcat.models.heads import HeadAttention


class BlockSteps(ABC):
    """Computation of a block with a flat token sequence, in parts between which tokens can change.

    Stateless. `block` is the model's own; its attention may be a method's `HeadAttention`, which
    the methods here take care of.
    """

    @abstractmethod
    def attention(self, block: Any) -> nn.Module:
        """The attention of a block."""

    @abstractmethod
    def mlp(self, block: Any) -> nn.Module:
        """The MLP of a block."""

    @abstractmethod
    def normed(self, block: Any, x: Tensor) -> Tensor:
        """Tokens (B, N, D) as they enter the attention."""

    @abstractmethod
    def add_attention(self, block: Any, x: Tensor, y: Tensor) -> Tensor:
        """Tokens x plus the output y of the attention, both (B, N, D), by the block's rules."""

    @abstractmethod
    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        """The second half of a block, (B, N, D) -> (B, N, D)."""

    @abstractmethod
    def dense_widths(self, attention: Any) -> tuple[int, int]:
        """Columns of queries and of values of the model's own attention, over all heads."""

    @abstractmethod
    def dense_project(self, attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`project` of the model's own attention for normed tokens, norms and positions applied."""

    @abstractmethod
    def dense_finish(self, attention: Any, heads: Tensor) -> Tensor:
        """`finish` of the model's own attention."""

    @abstractmethod
    def dense_scale(self, attention: Any) -> float:
        """Scale of the scores of the model's own attention."""

    @abstractmethod
    def dense_dropout(self, attention: Any) -> float:
        """Share of attention weights that the model's own attention drops now."""

    def widths(self, block: Any) -> tuple[int, int]:
        """Columns of queries and of values, over all heads."""
        attention = self.attention(block)
        if isinstance(attention, HeadAttention):
            heads = attention.num_heads
            return heads * attention.score_width, heads * attention.value_width
        return self.dense_widths(attention)

    def project(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (B, H, N, d) and values (B, H, N, e) of a block's tokens (B, N, D)."""
        attention, normed = self.attention(block), self.normed(block, x)
        if isinstance(attention, HeadAttention):
            q, k, v = (part.transpose(1, 2) for part in attention.project(normed))
            if attention.between is not None:
                q, k, mask = attention.between(q, k)
                assert mask is None, "tokens of a model with a bias of its scores were let through"
            return q, k, v
        return self.dense_project(attention, normed)

    def finish(self, block: Any, heads: Tensor) -> Tensor:
        """The output (B, N, D) of a block's attention from that of its heads, (B, H, N, e)."""
        attention = self.attention(block)
        if isinstance(attention, HeadAttention):
            return attention.finish(heads.transpose(1, 2))
        return self.dense_finish(attention, heads)

    def scale(self, block: Any) -> float:
        """Scale of the scores."""
        attention = self.attention(block)
        if isinstance(attention, HeadAttention):
            return attention.scale
        return self.dense_scale(attention)

    def dropout(self, block: Any) -> float:
        """Share of attention weights that are dropped now."""
        attention = self.attention(block)
        if isinstance(attention, HeadAttention):
            return attention.dropout
        return self.dense_dropout(attention)


@dataclass(frozen=True)
class TokenSequence:
    """Flat token sequence of a model, and its special tokens.

    Attributes:
        container: name of the module that holds the blocks, one after the other (`blocks`, or
            `stages.2.blocks` of CAFormer).
        depth: blocks in it.
        width: D, channels of a token.
        patches: tokens that enter the first block, beside the prefix tokens.
        prefix: tokens in front that are never dropped, merged or merged into.
        scoring: of these, the first so many whose attention says how important a patch is (class
            token, distillation token); 0: the attention of all tokens.
        pooled: whether the head averages over patches, which it then does by their sizes.
        merges_only: nothing is pruned, sizes are plain sums and the most important token takes in
            no other, as published for CAFormer; what was merged is put back after the last block.
        steps: how the blocks compute.
    """

    container: str
    depth: int
    patches: int
    prefix: int
    scoring: int
    pooled: bool
    merges_only: bool = False
    width: int = field(kw_only=True, compare=False)
    steps: BlockSteps = field(kw_only=True, repr=False, compare=False)

    @property
    def tokens(self) -> int:
        """Number of tokens that enter the first block."""
        return self.prefix + self.patches

    def site(self, block: int, kind: str) -> str:
        """Name of a site; kind is `prune` or `merge`."""
        return f"{self.container}.{block}.{kind}"
