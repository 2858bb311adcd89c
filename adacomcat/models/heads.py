"""Attention weights head by head, and the base class of replaced attention.

Shapes: B batch, N tokens, D channels in, O channels out, H heads, d width of a query and key head,
e width of a value head.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Heads:
    """Weights of an attention, or optimizer moments in the same arrangement.

    Attributes:
        q, k: (H, D, d), queries and keys are `x @ q[h] + q_bias[h]` and `x @ k[h] + k_bias[h]`.
        v: (H, D, e).
        o: (H, O, e), the output is the sum over heads of `head @ o[h].T`, plus `out_bias`.
        q_bias, k_bias: (H, d), or None where there is none.
        v_bias: (H, e) or None.
        out_bias: (O,) or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    out_bias: Tensor | None = None


def read_fused(tensors: Mapping[str, Tensor], heads: int) -> Heads:
    """Arrange tensors by heads where one layer makes queries, keys and values; views, no copies.

    Args:
        tensors: `qkv.weight` (2 H d + H e, D), `proj.weight` (O, H e) and, where there are any,
            `qkv.bias` or single `q_bias`, `k_bias`, `v_bias`, and `proj.bias`. Rows of one head
            lie together.
        heads: H.
    """
    weight, proj = tensors["qkv.weight"], tensors["proj.weight"]
    values = proj.shape[1]
    rows = (weight.shape[0] - values) // 2
    sizes = (rows, rows, values)
    q, k, v = (part.view(heads, -1, weight.shape[1]).mT for part in weight.split(sizes))
    single: tuple[Tensor | None, ...] = tuple(tensors.get(f"{part}_bias") for part in "qkv")
    if "qkv.bias" in tensors:
        single = tensors["qkv.bias"].split(sizes)
    q_bias, k_bias, v_bias = (None if b is None else b.view(heads, -1) for b in single)
    o = proj.view(-1, heads, values // heads).transpose(0, 1)
    return Heads(q, k, v, o, q_bias, k_bias, v_bias, tensors.get("proj.bias"))


def write_fused(heads: Heads, *, fused_bias: bool) -> dict[str, Tensor]:
    """The inverse of `read_fused`; copies.

    Args:
        heads: all of it.
        fused_bias: whether biases of queries, keys and values are one tensor, `qkv.bias` (then all
            three are needed), or single ones.
    """
    parts = (heads.q, heads.k, heads.v)
    biases = {"q_bias": heads.q_bias, "k_bias": heads.k_bias, "v_bias": heads.v_bias}
    flat = {name: bias.flatten() for name, bias in biases.items() if bias is not None}
    tensors = {
        "qkv.weight": torch.cat([part.mT.flatten(0, 1) for part in parts]),
        "proj.weight": copied(heads.o.transpose(0, 1).flatten(1)),
    }
    if fused_bias:
        assert len(flat) in (0, 3), sorted(flat)
        tensors |= {"qkv.bias": torch.cat(list(flat.values()))} if flat else {}
    else:
        tensors |= {name: copied(bias) for name, bias in flat.items()}
    if heads.out_bias is not None:
        tensors["proj.bias"] = heads.out_bias.clone()
    return tensors


class HeadAttention(nn.Module, ABC):
    """Attention that a method puts in the place of a model's own.

    It is computed in three steps, so that token methods can work between them: `project`,
    attention of the heads with `scale` and `dropout`, `finish`. `read` gives its weights by heads.

    Attributes:
        num_heads: H.
        head_dim, value_dim: widths of a query and of a value head of the dense attention, which the
            full ranks are.
        scale: of the scores.
        between: what stands between queries, keys and scores, see `AttentionView.score_module`.
    """

    num_heads: int
    head_dim: int
    value_dim: int
    scale: float
    between: nn.Module | None

    @property
    @abstractmethod
    def width(self) -> int:
        """D, channels that it takes."""

    @property
    @abstractmethod
    def score_width(self) -> int:
        """Columns of a query head now."""

    @property
    @abstractmethod
    def value_width(self) -> int:
        """Columns of a value head now."""

    @property
    @abstractmethod
    def dropout(self) -> float:
        """Share of attention weights that are dropped now."""

    @property
    def drop_rates(self) -> tuple[float, float]:
        """Shares dropped in training, of the attention weights and of the output."""
        return 0.0, 0.0

    @abstractmethod
    def read(self, tensors: Mapping[str, Tensor]) -> Heads:
        """Arrange its parameters, or optimizer moments of the same names, by heads."""

    @abstractmethod
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> queries and keys (B, N, H, d), values (B, N, H, e)."""

    @abstractmethod
    def finish(self, heads: Tensor) -> Tensor:
        """Outputs of the heads (B, N, H, e) -> (B, N, O)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) -> (B, N, O); accepts the arguments of the replaced attention.

        Without `between` that is timm's `attn_mask` and `is_causal`.
        """
        q, k, v = self.project(x)
        common = {"scale": self.scale, "dropout_p": self.dropout}
        if self.between is None:
            return self.finish(attend(q, k, v, **common, **_mask(*args, **kwargs)))
        q, k, mask = self.between(q.transpose(1, 2), k.transpose(1, 2), *args, **kwargs)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        return self.finish(attend(q, k, v, **common, attn_mask=mask))


def _mask(attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Any]:
    return {"attn_mask": attn_mask, "is_causal": is_causal}


class BlockContainer(nn.Sequential):
    """Blocks, one after the other, that a method puts in the place of the model's container.

    It holds the model's own blocks under the names that they had.
    """


class LinearStandIn(nn.Module):
    """A linear layer that a method puts in the place of a model's own.

    Attributes:
        in_features, out_features: as of the layer that stood there.
    """

    in_features: int
    out_features: int


def attend(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Fused attention of heads whose scores and values differ in width.

    Torch's fused kernels want one width; without it attention falls back to separate products, with
    an N x N matrix a head in memory. The narrower side is filled up with zeros: they change no
    score, and the columns of output that they make are cut off.

    Args:
        q, k: (B, N, H, d).
        v: (B, N, H, e).
        settings: of `scaled_dot_product_attention`.

    Returns:
        (B, N, H, e).
    """
    scores, values = q.shape[-1], v.shape[-1]
    # Products on the meta device are only counted, and padding is not part of the model's cost.
    if scores < values and not q.is_meta:
        q, k = (F.pad(t, (0, values - scores)) for t in (q, k))
    elif values < scores and not q.is_meta:
        v = F.pad(v, (0, scores - values))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    heads = F.scaled_dot_product_attention(q, k, v, **settings)
    return heads.transpose(1, 2)[..., :values]


def copied(tensor: Tensor) -> Tensor:
    """A contiguous copy: a view of a parameter that is replaced must not become a parameter."""
    return tensor.clone(memory_format=torch.contiguous_format)
