from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from adacomcat.methods.lowrank.attention import (
    attention_factors,
    build_attention,
    decompose_heads,
    factors_of,
    put_together,
    truncate_heads,
)
from adacomcat.models.heads import HeadAttention, attend
from adacomcat.models.timm_parts import fused_view, stand_in_view
from adacomcat.testing.models import draw_parameters_

WIDTH, HEADS, HEAD_WIDTH = 24, 3, 8


def dense(heads=HEADS, **options):
    attention = Attention(WIDTH, num_heads=heads, **({"qkv_bias": True} | options))
    draw_parameters_(attention, 0)
    return attention.eval()


def view_of(module):
    look = stand_in_view if isinstance(module, HeadAttention) else fused_view
    return look(module, "blocks.0", "blocks.0.attn", 7)


def low_rank(module, *, qk=None, vo=None, biases=True):
    """The module at ranks a head; None leaves a product as it is."""
    parts = attention_factors(view_of(module), module, biases=biases)
    for kind, rank in (("qk", qk), ("vo", vo)):
        if rank is not None:
            spectrum = decompose_heads(parts, kind, None, (None, None))
            parts = truncate_heads(parts, kind, spectrum, rank)
    return build_attention(view_of(module), module, parts).eval()


def images(seed=0):
    return torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(seed))


def reference_products(module):
    """By numpy: a head's [Wq; bq] Wk^T ((D + 1) x D) and Wv Wo (D x D); all bv Wo plus bo (D,)."""
    weight = module.qkv.weight.detach().double().numpy()
    bias = module.qkv.bias.detach().double().numpy()
    wq, wk, wv = weight.reshape(3, HEADS, HEAD_WIDTH, WIDTH)
    bq, _, bv = bias.reshape(3, HEADS, HEAD_WIDTH)
    wo = module.proj.weight.detach().double().numpy().T.reshape(HEADS, HEAD_WIDTH, WIDTH)
    qk = [np.vstack([wq[h].T, bq[h]]) @ wk[h] for h in range(HEADS)]
    vo = [wv[h].T @ wo[h] for h in range(HEADS)]
    out_bias = module.proj.bias.detach().double().numpy() + sum(bv[h] @ wo[h] for h in range(HEADS))
    return qk, vo, out_bias


def best_of_rank(matrix, rank):
    u, s, vh = np.linalg.svd(matrix)
    return u[:, :rank] * s[:rank] @ vh[:rank]


@pytest.mark.parametrize("masked", [None, "causal", "added", "boolean"])
@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"proj_bias": False}])
def test_full_rank_is_the_dense_attention(options, masked):
    module = dense(**options)
    mask = torch.randn(2, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    arguments = {
        None: {},
        "causal": {"is_causal": True},
        "added": {"attn_mask": mask},
        "boolean": {"attn_mask": (mask > 0) | torch.eye(7, dtype=torch.bool)},
    }[masked]
    new = low_rank(module, qk=HEAD_WIDTH, vo=HEAD_WIDTH)
    x = images()
    torch.testing.assert_close(new(x, **arguments), module(x, **arguments), rtol=0, atol=1e-5)


def test_full_rank_against_timms_attention_written_out(monkeypatch):
    module = dense()
    x = images()
    new = low_rank(module, qk=HEAD_WIDTH, vo=HEAD_WIDTH)(x)
    monkeypatch.setattr(module, "fused_attn", False)
    torch.testing.assert_close(new, module(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_truncation_is_the_best_product_of_each_head(rank):
    module = dense()
    qk, vo, out_bias = reference_products(module)
    new = low_rank(module, qk=rank, vo=rank)
    q, k, v = new.qkv.weight.detach().view(3, HEADS, rank, WIDTH).mT
    q = torch.cat([q, new.q_bias.detach().view(HEADS, 1, rank)], 1)
    o = new.proj.weight.detach().view(WIDTH, HEADS, rank).transpose(0, 1)
    for head in range(HEADS):
        scores, outputs = (q[head] @ k[head].T).numpy(), (v[head] @ o[head].T).numpy()
        np.testing.assert_allclose(scores, best_of_rank(qk[head], rank), rtol=0, atol=2e-6)
        np.testing.assert_allclose(outputs, best_of_rank(vo[head], rank), rtol=0, atol=2e-6)
    np.testing.assert_allclose(new.proj.bias.detach().numpy(), out_bias, rtol=0, atol=1e-6)


def test_dropping_biases_drops_all_four():
    module = dense()
    dropped = low_rank(module, qk=HEAD_WIDTH, vo=HEAD_WIDTH, biases=False)
    assert {name for name, _ in dropped.named_parameters()} == {"qkv.weight", "proj.weight"}
    x = images()
    assert not torch.allclose(dropped(x), module(x), atol=0.1)
    with torch.no_grad():
        module.qkv.bias.zero_()
        module.proj.bias.zero_()
    torch.testing.assert_close(dropped(x), module(x), rtol=0, atol=1e-5)


def test_truncations_nest():
    module = dense()
    x = images()
    steps = low_rank(low_rank(low_rank(module, qk=6), qk=4, vo=5), qk=3, vo=2)
    torch.testing.assert_close(steps(x), low_rank(module, qk=3, vo=2)(x), rtol=0, atol=1e-5)


def test_one_product_alone_leaves_the_other_bit_for_bit():
    module = low_rank(dense(), qk=6, vo=5)
    new = low_rank(module, qk=3)
    assert torch.equal(new.qkv.weight[-HEADS * 5 :], module.qkv.weight[-HEADS * 5 :])
    assert torch.equal(new.proj.weight, module.proj.weight)
    assert torch.equal(new.proj.bias, module.proj.bias)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("ranks", [{"qk": WIDTH}, {"vo": WIDTH}, {"qk": WIDTH, "vo": WIDTH}])
def test_new_parameters_share_no_memory_with_the_old(heads, ranks):
    module = dense(heads)
    before = [p.detach().clone() for p in module.parameters()]
    parts = attention_factors(view_of(module), module, biases=True)
    spectra = {}
    for kind, rank in ranks.items():
        spectra[kind] = decompose_heads(parts, kind, None, (None, None))
        parts = truncate_heads(parts, kind, spectra[kind], rank // heads)
    kept = [t.clone() for s in spectra.values() for t in (s.left, s.right)]
    new = build_attention(view_of(module), module, parts)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.zero_()
    assert all(map(torch.equal, before, module.parameters()))
    assert all(map(torch.equal, kept, (t for s in spectra.values() for t in (s.left, s.right))))


def test_taking_apart_and_putting_together():
    module = low_rank(dense(), qk=3, vo=5)
    tensors = {name: p.detach() for name, p in module.named_parameters()}
    again = put_together(factors_of(module.read(tensors), biases=True))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_dropout_is_kept_and_off_in_evaluation():
    module = dense(attn_drop=0.4, proj_drop=0.3)
    new = low_rank(module, qk=HEAD_WIDTH, vo=HEAD_WIDTH)
    assert (new.attn_drop.p, new.proj_drop.p) == (0.4, 0.3)
    x = images()
    torch.testing.assert_close(new(x), module(x), rtol=0, atol=1e-5)
    new.train()
    assert not torch.allclose(new(x), new(x))


@pytest.mark.parametrize(("scores", "values"), [(3, 8), (8, 3), (5, 5)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_heads_of_two_widths_attend_as_written_out_and_through_a_fused_kernel(
    scores: int, values: int, is_causal: bool
) -> None:
    source = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 5, 3, scores, generator=source)
    v = torch.randn(2, 5, 3, values, generator=source)
    # The math backend takes unequal widths as they are.
    settings: Any = {"scale": 0.3, "is_causal": is_causal}
    inputs = [t.requires_grad_() for t in (q, k, v)]
    with sdpa_kernel(SDPBackend.MATH):
        heads = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in inputs), **settings)
        expected = heads.transpose(1, 2)
        wanted = torch.autograd.grad(expected.square().sum(), inputs)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = attend(q, k, v, **settings)
        gradients = torch.autograd.grad(found.square().sum(), inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, wanted)
