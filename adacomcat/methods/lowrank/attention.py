"""Multi-head attention through per-head low-rank products, and its factorization.

Shapes: B batch, N tokens, D channels, H heads, d head width, r rank a head (qk and vo may differ).

For one head, ComCAT (arXiv 2305.17235, equations 3 to 6) replaces the D x D products `Wq Wk^T` and
`Wv Wo`. What differs from the original: biases are kept exactly. With queries `x Wq + bq` and keys
`x Wk + bk`, softmax ignores whatever is constant along keys, so that bk vanishes; bq is one more
row of Wq for an input that is always one, and is truncated with it, optimally for both together;
rows of attention sum to one, so that bv moves into the output bias. At full rank nothing is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adacomcat.methods.lowrank.factorize import Spectrum, decompose
from adacomcat.models.base import AttentionView
from adacomcat.models.heads import HeadAttention, Heads, copied, read_fused


class LowRankAttention(HeadAttention):
    """Attention with heads of width r_qk for the scores and r_vo for the values.

    (B, N, D) -> (B, N, D). The scores keep the scale of the dense head, as a rule `d ** -0.5`: they
    stand for the same products.
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
        key_bias: bool = False,
        between: nn.Module | None = None,
        scale: float | None = None,
        value_width: int | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = head_width
        self.value_dim = head_width if value_width is None else value_width
        self.scale = head_width**-0.5 if scale is None else scale
        self.sizes = (heads * qk_rank, heads * qk_rank, heads * vo_rank)
        self.qkv = nn.Linear(width, sum(self.sizes), bias=False, device=device)
        bias = torch.zeros(heads * qk_rank, device=device)
        self.register_parameter("q_bias", nn.Parameter(bias) if query_bias else None)
        self.register_parameter("k_bias", nn.Parameter(bias.clone()) if key_bias else None)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(heads * vo_rank, width, bias=out_bias, device=device)
        self.proj_drop = nn.Dropout(proj_drop)
        self.between = between

    @property
    def width(self) -> int:
        return self.qkv.in_features

    @property
    def score_width(self) -> int:
        return self.sizes[0] // self.num_heads

    @property
    def value_width(self) -> int:
        return self.sizes[2] // self.num_heads

    @property
    def dropout(self) -> float:
        return self.attn_drop.p if self.training else 0.0

    @property
    def drop_rates(self) -> tuple[float, float]:
        return self.attn_drop.p, self.proj_drop.p

    def read(self, tensors: Mapping[str, Tensor]) -> Heads:
        return read_fused(tensors, self.num_heads)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> queries and keys (B, N, H, r_qk), values (B, N, H, r_vo)."""
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).split(self.sizes, dim=-1)
        if self.q_bias is not None:
            # In its own type: autocast would take both, and all that follows, to float32.
            q = q + self.q_bias.to(q.dtype)
        if self.k_bias is not None:
            k = k + self.k_bias.to(k.dtype)
        q, k, v = (t.view(batch, tokens, self.num_heads, -1) for t in (q, k, v))
        return q, k, v

    def finish(self, heads: Tensor) -> Tensor:
        """(B, N, H, r_vo), what the heads took from the values -> (B, N, D)."""
        return self.proj_drop(self.proj(heads.flatten(2)))


@dataclass(frozen=True)
class Factors:
    """The two products of each head; also their optimizer moments in the same arrangement.

    Attributes:
        q: (H, D or D + 1, r_qk), the last row being the query bias where there is one.
        k: (H, D or D + 1, r_qk); the last row is the key bias, where queries and keys are not one
            product and it has an effect.
        v: (H, D, r_vo).
        o: (H, D, r_vo), the output projection, transposed.
        out_bias: (D,) or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    out_bias: Tensor | None


def factors_of(heads: Heads, *, biases: bool, key_bias: bool = False) -> Factors:
    """The factors in the weights (or moments) of an attention; a value bias is left out.

    Args:
        heads: dense or low-rank.
        biases: whether biases are kept at all.
        key_bias: whether that of the keys is.
    """
    q, k = heads.q, heads.k
    if biases and heads.q_bias is not None:
        q = torch.cat([q, heads.q_bias.unsqueeze(1)], dim=1)
    if biases and key_bias and heads.k_bias is not None:
        k = torch.cat([k, heads.k_bias.unsqueeze(1)], dim=1)
    return Factors(q, k, heads.v, heads.o, heads.out_bias if biases else None)


def put_together(parts: Factors) -> dict[str, Tensor]:
    """Factors in the names of `LowRankAttention`; copies."""
    width = parts.v.shape[1]
    tensors = {
        "qkv.weight": torch.cat(
            [part[:, :width].mT.flatten(0, 1) for part in (parts.q, parts.k, parts.v)]
        ),
        "proj.weight": copied(parts.o.transpose(0, 1).flatten(1)),
    }
    if parts.q.shape[1] > width:
        tensors["q_bias"] = copied(parts.q[:, width].flatten())
    if parts.k.shape[1] > width:
        tensors["k_bias"] = copied(parts.k[:, width].flatten())
    if parts.out_bias is not None:
        tensors["proj.bias"] = parts.out_bias.clone()
    return tensors


def heads_of(view: AttentionView, module: nn.Module, tensors: Mapping[str, Tensor]) -> Heads:
    """The parameters of an attention, or moments of the same names, by heads.

    Args:
        view: of the dense attention.
        module: the attention there is now, dense or low-rank.
        tensors: by the names of its parameters.
    """
    return module.read(tensors) if isinstance(module, LowRankAttention) else view.read(tensors)


def attention_factors(view: AttentionView, module: nn.Module, *, biases: bool) -> Factors:
    """The factors of a dense or low-rank attention; a value bias is folded into the output bias.

    The result of a dense module with `biases` loses nothing; without, it loses all four biases.
    """
    heads = heads_of(view, module, {name: p.detach() for name, p in module.named_parameters()})
    parts = factors_of(heads, biases=biases, key_bias="qk" not in view.products)
    if biases and heads.v_bias is not None:
        moved = _joined(heads.o) @ heads.v_bias.flatten()
        out_bias = moved if parts.out_bias is None else parts.out_bias + moved
        parts = replace(parts, out_bias=out_bias)
    return parts


def _joined(o: Tensor) -> Tensor:
    """(H, O, e), output weights by heads -> (O, H e), one matrix."""
    return o.transpose(0, 1).flatten(1)


def decompose_heads(
    parts: Factors,
    kind: str,
    rest: tuple[Tensor, Tensor] | None,
    metrics: tuple[Tensor | None, Tensor | None],
) -> Spectrum:
    """The spectrum of the `qk` or `vo` products of all heads, with what was cut off earlier."""
    left, right = (parts.q, parts.k) if kind == "qk" else (parts.v, parts.o)
    if rest is not None:
        left, right = torch.cat([left, rest[0]], -1), torch.cat([right, rest[1]], -1)
    return decompose(left, right, *metrics)


def truncate_heads(parts: Factors, kind: str, spectrum: Spectrum, rank: int) -> Factors:
    """The factors with one product replaced by the leading `rank` columns of its spectrum."""
    left, right = spectrum.left[..., :rank], spectrum.right[..., :rank]
    return replace(parts, q=left, k=right) if kind == "qk" else replace(parts, v=left, o=right)


def carry_heads(moments: Factors, power: int, kind: str, spectrum: Spectrum, rank: int) -> Factors:
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


def without_value_bias(moments: Factors, state: Heads, value_bias: Tensor | None) -> Factors:
    """First moments as if the value bias had sat in the output bias all along.

    The gradient of Wo is that of the product times Wv, plus bv times the gradient of the output
    bias; the bias is folded away, so the second term goes with it.

    Args:
        moments: of the factors.
        state: the moments that they were arranged from.
        value_bias: (H, e), of the weights.
    """
    if value_bias is None or state.out_bias is None:
        return moments
    share = state.out_bias.view(1, -1, 1) * value_bias.unsqueeze(1)
    return replace(moments, o=moments.o - share)


def build_attention(view: AttentionView, module: nn.Module, parts: Factors) -> LowRankAttention:
    """The factors as a module, with the dropout and the scale of the dense attention.

    Args:
        view: of the dense attention.
        module: what is replaced, dense or low-rank; gives what stands between queries and keys.
        parts: the factors.
    """
    heads, width, _ = parts.v.shape
    qk_rank = parts.k.shape[-1]
    new = LowRankAttention(
        width,
        heads,
        view.head_width,
        qk_rank,
        parts.v.shape[-1],
        query_bias=parts.q.shape[1] > width,
        key_bias=parts.k.shape[1] > width,
        out_bias=parts.out_bias is not None,
        scale=view.scale,
        value_width=view.value_width,
        attn_drop=view.attn_drop,
        proj_drop=view.proj_drop,
        # On the meta device no random number is drawn for weights that are replaced at once.
        device="meta",
    )
    new.load_state_dict(put_together(parts), assign=True)
    new.between = between_of(view, module)
    return new


def between_of(view: AttentionView, module: nn.Module) -> nn.Module | None:
    """Modules between queries, keys and scores of an attention, dense or low-rank."""
    return module.between if isinstance(module, LowRankAttention) else view.score_module(module)
