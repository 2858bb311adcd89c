"""Shared parts of timm's models: attention, linear layers, containers of blocks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.models.base import AttentionView, LinearView, StandInView
from adacomcat.models.heads import (
    BlockContainer,
    HeadAttention,
    Heads,
    LinearStandIn,
    read_fused,
    write_fused,
)
from adacomcat.models.plain import (
    require_exact,
    require_linear,
    require_no_hooks,
    require_parts,
    require_stand_in,
)
from adacomcat.models.tokens import BlockSteps

LARGEST = 1_000_000
"""No size that is read from a file may be larger: a damaged one must not take all memory."""


class TimmSteps(BlockSteps):
    """Blocks around timm's usual attention: one layer `qkv`, and `proj` behind the heads."""

    def mlp(self, block: Any) -> nn.Module:
        found = block.mlp
        assert isinstance(found, nn.Module)
        return found

    def normed(self, block: Any, x: Tensor) -> Tensor:
        normed: Tensor = block.norm1(x)
        return normed

    def dense_widths(self, attention: Any) -> tuple[int, int]:
        values = int(attention.proj.in_features)
        return (int(attention.qkv.out_features) - values) // 2, values

    def dense_project(self, attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, attention.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def dense_finish(self, attention: Any, heads: Tensor) -> Tensor:
        output: Tensor = attention.proj_drop(attention.proj(heads.transpose(1, 2).flatten(2)))
        return output

    def dense_scale(self, attention: Any) -> float:
        return effective_scale(attention)

    def dense_dropout(self, attention: Any) -> float:
        return drop_rate(attention.attn_drop) if attention.training else 0.0


@dataclass(frozen=True)
class FusedAttentionView(AttentionView):
    """Attention with one layer `qkv` and a layer `proj`, under these names."""

    def read(self, tensors: Mapping[str, Tensor]) -> Heads:
        return read_fused(tensors, self.heads)

    def write(self, heads: Heads) -> dict[str, Tensor]:
        return write_fused(heads, fused_bias=True)

    def score_module(self, attention: Any) -> nn.Module | None:
        if self.between == "nothing":
            return None
        return NormedScores(attention.q_norm, attention.k_norm)


class NormedScores(nn.Module):
    """Norms of queries and keys, between their projections and the scores."""

    def __init__(self, q_norm: nn.Module, k_norm: nn.Module) -> None:
        super().__init__()
        self.q_norm, self.k_norm = q_norm, k_norm

    def forward(
        self, q: Tensor, k: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys (B, H, N, d) to the same, and the mask."""
        if is_causal:
            tokens = q.shape[-2]
            attn_mask = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
        return self.q_norm(q), self.k_norm(k), attn_mask


def fused_view(attention: Any, block: str, name: str, tokens: int) -> FusedAttentionView:
    """The view of timm's usual attention, whose sizes are its own whatever other blocks have.

    Raises:
        ValueError: sizes that contradict each other.
    """
    heads, width = attention.num_heads, attention.head_dim
    rows, channels = attention.qkv.weight.shape
    allowed = f"{3 * heads * width}, three times num_heads {heads} times head_dim {width}"
    require(rows == 3 * heads * width, f"{name}.qkv: rows", rows, allowed)
    columns = attention.proj.weight.shape
    allowed = f"{(channels, heads * width)}, channels in and num_heads times head_dim"
    require(tuple(columns) == (channels, heads * width), f"{name}.proj", tuple(columns), allowed)
    return FusedAttentionView(
        block,
        name,
        width=channels,
        heads=heads,
        head_width=width,
        value_width=width,
        scale=effective_scale(attention),
        tokens=tokens,
        pairs=tokens**2,
        between="norm" if _has_norms(attention) else "nothing",
        attn_drop=drop_rate(attention.attn_drop),
        proj_drop=drop_rate(attention.proj_drop),
    )


def stand_in_view(attention: HeadAttention, block: str, name: str, tokens: int) -> StandInView:
    """The view of a module that a method put in place of timm's usual attention."""
    return StandInView(
        block,
        name,
        width=attention.width,
        heads=attention.num_heads,
        head_width=attention.head_dim,
        value_width=attention.value_dim,
        scale=attention.scale,
        tokens=tokens,
        pairs=tokens**2,
        between="nothing" if attention.between is None else "norm",
        attn_drop=attention.drop_rates[0],
        proj_drop=attention.drop_rates[1],
        stand_in=attention,
    )


def linear_view(layer: nn.Module, module: str, site: str, kind: str, tokens: int) -> LinearView:
    """The view of a Linear, or of a method's replacement of one.

    Raises:
        ValueError: another module, an adapter or a hook.
    """
    if isinstance(layer, LinearStandIn):
        require_stand_in(layer, module)
        return LinearView(site, module, kind, layer.in_features, layer.out_features, tokens)
    require_linear(layer, module)
    weight: Any = layer.weight
    outputs, inputs = weight.shape
    return LinearView(site, module, kind, inputs, outputs, tokens)


def check_sizes(sizes: Any, names: Iterable[str], field: str, also: Iterable[str] = ()) -> None:
    """Raise unless sizes are integers of 1 or more by these names.

    Args:
        sizes: what is looked at.
        names: of the sizes.
        field: where they stand, for messages.
        also: names of finite numbers above 0 beside them.

    Raises:
        ValueError: a name that is missing or unknown, or a value that is no size.
    """
    names, also = tuple(names), tuple(also)
    sound = isinstance(sizes, Mapping) and set(sizes) == {*names, *also}
    require(sound, field, sizes, f"exactly {', '.join((*names, *also))}")
    for name in names:
        size = sizes[name]
        sound = type(size) is int and 0 < size <= LARGEST
        require(sound, f"{field}.{name}", size, f"an integer from 1 to {LARGEST}")
    for name in also:
        number = sizes[name]
        sound = isinstance(number, float) and 0 < number < math.inf
        require(sound, f"{field}.{name}", number, "a number above 0")


def resized(layer: Any, inputs: int, outputs: int) -> nn.Linear:
    """A Linear of other sizes, with a bias where `layer` has one; its weights are undefined."""
    like, bias = layer.weight, layer.bias is not None
    new = nn.Linear(inputs, outputs, bias=bias, device="meta", dtype=like.dtype)
    return new.to_empty(device=like.device).train(layer.training)


def resize_attention_(attention: Any, sizes: Mapping[str, Any]) -> None:
    """Give timm's usual attention other heads; its weights are undefined.

    Args:
        attention: what is changed.
        sizes: `heads`, `head_width` and `scale`.
    """
    width, columns = attention.qkv.in_features, sizes["heads"] * sizes["head_width"]
    attention.qkv = resized(attention.qkv, width, 3 * columns)
    attention.proj = resized(attention.proj, columns, attention.proj.out_features)
    attention.num_heads, attention.head_dim = sizes["heads"], sizes["head_width"]
    attention.scale = sizes["scale"]
    # The fused kernel has a scale of its own.
    attention.fused_attn = attention.fused_attn and sizes["scale"] == sizes["head_width"] ** -0.5
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = columns


def check_attention(attention: Any, name: str, kind: type[nn.Module], parts: Iterable[str]) -> None:
    """Raise unless this is timm's usual attention, or a method's replacement of it.

    Args:
        attention: what is looked at.
        name: of the module.
        kind: timm's class.
        parts: names of its children.

    Raises:
        ValueError: another module, an adapter, a hook, or a gate.
    """
    if isinstance(attention, HeadAttention):
        require_stand_in(attention, name)
        return
    require_exact(attention, name, (kind,), "timm's Attention")
    require_no_hooks(attention, name)
    gate = getattr(attention, "gate", None)
    require(gate is None, f"{name}.gate", type(gate).__name__, "no gate")
    require_parts(attention, name, parts)
    for part in ("qkv", "proj"):
        require_linear(getattr(attention, part), f"{name}.{part}")
    for part in ("attn_drop", "proj_drop"):
        dropout = getattr(attention, part)
        require_exact(dropout, f"{name}.{part}", (nn.Dropout, nn.Identity))
        require_no_hooks(dropout, f"{name}.{part}")


def check_container(container: nn.Module, name: str) -> None:
    """Raise unless blocks are in a plain Sequential, or in a method's replacement of one.

    Raises:
        ValueError: another container, or one with hooks.
    """
    if not isinstance(container, BlockContainer):
        require_exact(container, name, (nn.Sequential,))
    require_no_hooks(container, name)


def _has_norms(attention: Any) -> bool:
    """Whether queries or keys are normalized."""
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return any(norm is not None and type(norm) is not nn.Identity for norm in norms)


def effective_scale(attention: Any) -> float:
    """Scale of the scores in the forward of timm's usual attention.

    The fused kernel does not read `attention.scale`.
    """
    return float(attention.head_dim**-0.5 if attention.fused_attn else attention.scale)


def drop_rate(dropout: nn.Module) -> float:
    """Share that a Dropout drops in training; an Identity drops none."""
    return float(dropout.p) if isinstance(dropout, nn.Dropout) else 0.0
