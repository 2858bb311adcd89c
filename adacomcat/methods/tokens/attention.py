"""The blocks of vision transformers taken apart, so that tokens can be dropped between their
halves.

Shapes: B batch, N tokens, C channels, H heads, d width of a head (of its scores; e of its values).

Works on timm's Block (ViT, DeiT, MAE) and MetaFormerBlock (CAFormer), whose attention may be timm's
or, in either, a low-rank one, committed or in a search. What these pieces cannot express (gates) is
refused where a model is looked at (`adacomcat.models`).
"""

from typing import Any

from torch import Tensor

from adacomcat.methods.lowrank import attention as lowrank
from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.supernet import SupernetAttention

Block = Any
"""timm's Block or MetaFormerBlock."""
AnyAttention = Any
"""timm's Attention, that of its MetaFormer, a `LowRankAttention` or a `SupernetAttention`."""
_FACTORIZED = (LowRankAttention, SupernetAttention)


def mixer(block: Block) -> AnyAttention:
    """The attention of a block."""
    return block.attn if hasattr(block, "attn") else block.token_mixer


def project(attention: AnyAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys (B, H, N, d) and values (B, H, N, e) of normalized tokens (B, N, C)."""
    if isinstance(attention, _FACTORIZED):
        q, k, v = (t.transpose(1, 2) for t in attention.project(x))
        return q, k, v
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if hasattr(attention, "q_norm"):
        q, k = attention.q_norm(q), attention.k_norm(k)
    return q, k, v


def attend(
    attention: AnyAttention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Fused attention.

    Args:
        attention: whose scale and dropout count.
        q, k: (B, H, N, d).
        v: (B, H, N, e).
        bias: added to the scores, (B, 1, 1, N) in the type of `q`.

    Returns:
        (B, H, N, e).
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    heads = lowrank.attend(
        q, k, v, scale=attention.scale, attn_mask=bias, dropout_p=dropout(attention)
    )
    return heads.transpose(1, 2)


def dropout(attention: AnyAttention) -> float:
    """Share of attention weights that are dropped now."""
    if not attention.training or isinstance(attention, SupernetAttention):
        return 0.0
    return float(attention.attn_drop.p)


def finish(attention: AnyAttention, heads: Tensor) -> Tensor:
    """The output (B, N, C) of an attention from that of its heads, (B, H, N, e)."""
    heads = heads.transpose(1, 2)
    if isinstance(attention, _FACTORIZED):
        return attention.finish(heads)
    heads = heads.flatten(2)
    if hasattr(attention, "norm"):
        heads = attention.norm(heads)
    return attention.proj_drop(attention.proj(heads))


def add_attention(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """Tokens x plus the output y of the block's attention, both (B, N, C), by the block's rules."""
    if hasattr(block, "attn"):
        return x + block.drop_path1(block.ls1(y))
    return block.res_scale1(x) + block.layer_scale1(block.drop_path1(y))


def add_mlp(block: Block, x: Tensor) -> Tensor:
    """The second half of a block, (B, N, C) -> (B, N, C)."""
    y = block.mlp(block.norm2(x))
    if hasattr(block, "attn"):
        return x + block.drop_path2(block.ls2(y))
    return block.res_scale2(x) + block.layer_scale2(block.drop_path2(y))
