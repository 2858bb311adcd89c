"""Multi-head attention through per-head low-rank products, and how it is taken apart and put
together.

Shapes: B batch, N tokens, D channels, H heads, d head width, r rank a head (qk and vo may differ).

For one head, ComCAT (arXiv 2305.17235, equations 3 to 6) replaces the D x D products `Wq Wk^T` and
`Wv Wo`. What differs from the original: biases are kept exactly. With queries `x Wq + bq` and keys
`x Wk + bk`, softmax ignores whatever is constant along keys, so that bk vanishes; bq is one more
row of Wq for an input that is always one, and is truncated with it, optimally for both together;
rows of attention sum to one, so that bv moves into the output bias. At full rank nothing is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adacomcat.methods.lowrank.factorize import Spectrum, decompose

AnyAttention = Any
"""timm's Attention or a `LowRankAttention`: num_heads, qkv, proj, attn_drop and proj_drop."""


class LowRankAttention(nn.Module):
    """Attention with heads of width r_qk for the scores and r_vo for the values: (B, N, D) -> (B,
    N, D).

    The scores keep the scale of the dense head, `d ** -0.5`: they stand for the same products.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        qk_rank: int,
        vo_rank: int,
        *,
        query_bias: bool,
        out_bias: bool,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = head_width
        self.scale = head_width**-0.5
        self.sizes = (heads * qk_rank, heads * qk_rank, heads * vo_rank)
        self.qkv = nn.Linear(width, sum(self.sizes), bias=False, device=device)
        bias = torch.zeros(heads * qk_rank, device=device)
        self.register_parameter("q_bias", nn.Parameter(bias) if query_bias else None)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(heads * vo_rank, width, bias=out_bias, device=device)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        q, k, v = self.project(x)
        heads = attend(
            q,
            k,
            v,
            scale=self.scale,
            attn_mask=attn_mask,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            is_causal=is_causal,
        )
        return self.finish(heads)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> queries and keys (B, N, H, r_qk), values (B, N, H, r_vo)."""
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).split(self.sizes, dim=-1)
        if self.q_bias is not None:
            # In its own type: autocast would take both, and all that follows, to float32.
            q = q + self.q_bias.to(q.dtype)
        q, k, v = (t.view(batch, tokens, self.num_heads, -1) for t in (q, k, v))
        return q, k, v

    def finish(self, heads: Tensor) -> Tensor:
        """(B, N, H, r_vo), what the heads took from the values -> (B, N, D)."""
        return self.proj_drop(self.proj(heads.flatten(2)))


def attend(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Fused attention of heads whose scores and values differ in width.

    Torch's fused kernels want one width; without it attention falls back to separate products, with
    an N x N matrix a head in memory. The narrower side is filled up with zeros: they change no
    score, and the columns of output that they make are cut off.

    Args:
        q, k: (B, N, H, r_qk).
        v: (B, N, H, r_vo).
        settings: of `scaled_dot_product_attention`.

    Returns:
        (B, N, H, r_vo).
    """
    scores, values = q.shape[-1], v.shape[-1]
    # Products on the meta device are only counted, and zeros are none that the model asks for.
    if scores < values and not q.is_meta:
        q, k = (F.pad(t, (0, values - scores)) for t in (q, k))
    elif values < scores and not q.is_meta:
        v = F.pad(v, (0, scores - values))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    heads = F.scaled_dot_product_attention(q, k, v, **settings)
    return heads.transpose(1, 2)[..., :values]


@dataclass(frozen=True)
class Heads:
    """An attention's tensors, head by head; also its optimizer moments in the same arrangement.

    Attributes:
        q: (H, D or D + 1, r_qk), the last row being the query bias where there is one.
        k: (H, D, r_qk).
        v: (H, D, r_vo).
        o: (H, D, r_vo), the output projection, transposed.
        out_bias: (D,) or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    out_bias: Tensor | None


def take_apart(tensors: Mapping[str, Tensor], heads: int, vo_rank: int, *, biases: bool) -> Heads:
    """Arrange parameters (or moments) of a dense or low-rank attention by heads.

    Args:
        tensors: `qkv.weight`, `proj.weight` and, where there are any, `qkv.bias` (dense), `q_bias`
            (low-rank), `proj.bias`.
        heads: H.
        vo_rank: width of a value head.
        biases: whether biases are kept at all.
    """
    weight, proj = tensors["qkv.weight"], tensors["proj.weight"]
    values = heads * vo_rank
    rows = (weight.shape[0] - values) // 2
    q, k, v = (
        part.view(heads, -1, weight.shape[1]).mT for part in weight.split((rows, rows, values))
    )
    q_bias = tensors["qkv.bias"][:rows] if "qkv.bias" in tensors else tensors.get("q_bias")
    if biases and q_bias is not None:
        q = torch.cat([q, q_bias.view(heads, 1, -1)], dim=1)
    o = proj.view(-1, heads, vo_rank).transpose(0, 1)
    return Heads(q, k, v, o, tensors.get("proj.bias") if biases else None)


def put_together(parts: Heads) -> dict[str, Tensor]:
    """The inverse of `take_apart`, in the names of `LowRankAttention`; copies."""
    width = parts.k.shape[1]
    tensors = {
        "qkv.weight": torch.cat(
            [part[:, :width].mT.flatten(0, 1) for part in (parts.q, parts.k, parts.v)]
        ),
        "proj.weight": _copied(parts.o.transpose(0, 1).flatten(1)),
    }
    if parts.q.shape[1] > width:
        tensors["q_bias"] = _copied(parts.q[:, width].flatten())
    if parts.out_bias is not None:
        tensors["proj.bias"] = parts.out_bias.clone()
    return tensors


def attention_heads(module: AnyAttention, *, biases: bool) -> Heads:
    """The heads of timm's Attention or of a `LowRankAttention`; a value bias is folded away.

    The result of a dense module with `biases` loses nothing; without, it loses all four biases.
    """
    tensors = {name: p.detach() for name, p in module.named_parameters()}
    parts = take_apart(tensors, module.num_heads, value_width(module), biases=biases)
    value_bias = value_bias_of(module)
    if biases and value_bias is not None:
        moved = tensors["proj.weight"] @ value_bias
        out_bias = moved if parts.out_bias is None else parts.out_bias + moved
        parts = replace(parts, out_bias=out_bias)
    return parts


def value_bias_of(module: AnyAttention) -> Tensor | None:
    """(H d,), the value bias of a dense attention; a low-rank one has none."""
    bias = module.qkv.bias
    return None if bias is None else bias.detach()[-module.proj.in_features :]


def value_width(module: AnyAttention) -> int:
    """Columns of a value head: d of a dense attention, r_vo of a low-rank one."""
    return int(module.proj.in_features) // int(module.num_heads)


def decompose_heads(
    parts: Heads,
    kind: str,
    rest: tuple[Tensor, Tensor] | None,
    metrics: tuple[Tensor | None, Tensor | None],
) -> Spectrum:
    """The spectrum of the `qk` or `vo` products of all heads, with what was cut off earlier."""
    left, right = (parts.q, parts.k) if kind == "qk" else (parts.v, parts.o)
    if rest is not None:
        left, right = torch.cat([left, rest[0]], -1), torch.cat([right, rest[1]], -1)
    return decompose(left, right, *metrics)


def truncate_heads(parts: Heads, kind: str, spectrum: Spectrum, rank: int) -> Heads:
    """The heads with one product replaced by the leading `rank` columns of its spectrum."""
    left, right = spectrum.left[..., :rank], spectrum.right[..., :rank]
    return replace(parts, q=left, k=right) if kind == "qk" else replace(parts, v=left, o=right)


def carry_heads(moments: Heads, power: int, kind: str, spectrum: Spectrum, rank: int) -> Heads:
    """Moments of the factors that `truncate_heads` made, from those of the factors before.

    With G the gradient of a product, the left factor's gradient is `G B`; the new one's is
    `G (B right_map)`. What an earlier search cut off carries no moment.
    """

    def moved(moment: Tensor, by: Tensor) -> Tensor:
        return moment @ by[:, : moment.shape[-1], :rank] ** power

    if kind == "qk":
        q, k = moved(moments.q, spectrum.right_map), moved(moments.k, spectrum.left_map)
        return replace(moments, q=q, k=k)
    v, o = moved(moments.v, spectrum.right_map), moved(moments.o, spectrum.left_map)
    return replace(moments, v=v, o=o)


def without_value_bias(
    moments: Heads, state: Mapping[str, Tensor], value_bias: Tensor | None
) -> Heads:
    """First moments as if the value bias had sat in the output bias all along.

    The gradient of Wo is that of the product times Wv, plus bv times the gradient of the output
    bias; the bias is folded away, so the second term goes with it.
    """
    if value_bias is None or "proj.bias" not in state:
        return moments
    heads, _, width = moments.o.shape
    share = state["proj.bias"].view(1, -1, 1) * value_bias.view(heads, 1, width)
    return replace(moments, o=moments.o - share)


def build_attention(module: AnyAttention, parts: Heads, head_width: int) -> LowRankAttention:
    """The heads as a module, with the dropout of `module`.

    Args:
        module: the attention that is replaced.
        parts: its new heads.
        head_width: d of the dense model, for the scale of the scores.
    """
    heads, width, qk_rank = parts.k.shape
    new = LowRankAttention(
        width,
        heads,
        head_width,
        qk_rank,
        parts.v.shape[-1],
        query_bias=parts.q.shape[1] > width,
        out_bias=parts.out_bias is not None,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        # On the meta device no random number is drawn for weights that are replaced at once.
        device="meta",
    )
    new.load_state_dict(put_together(parts), assign=True)
    return new


def _copied(tensor: Tensor) -> Tensor:
    # A view of a parameter that is replaced, or of a spectrum, must not become a parameter.
    return tensor.clone(memory_format=torch.contiguous_format)
