"""Blocks that drop tokens, against the same done image by image and token by token."""

import copy
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models.metaformer import Attention, MetaFormerBlock, StarReLU
from torch import Tensor

from adacomcat.cost import count_macs
from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.linear import LowRankLinear
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of
from adacomcat.models.timm_metaformer import MetaFormerSteps
from adacomcat.models.tokens import TokenSequence
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_, tiny_images, tiny_vit

DEPTH, PATCHES = 4, 16
MODULES = (LowRankAttention, LowRankLinear)
POOLED = {"global_pool": "avg", "fc_norm": True}
MODELS = {
    "class token": {},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "registers": {"reg_tokens": 4},
    "pooled": POOLED,
    "no class token": POOLED | {"class_token": False},
    "layer scale": {"init_values": 0.5},
    "normed queries": {"qk_norm": True},
}
RATES = {
    "nothing": ([None] * 4, [None] * 4),
    "pruned": ([None, 13, 9, 4], [None] * 4),
    "merged": ([None] * 4, [None, 12, 7, 2]),
    "both": ([16, 14, 10, 6], [16, 11, 8, 3]),
    "not falling": ([16, 9, 14, 12], [16, 7, 12, 6]),
    "from the first": ([12, None, 8, 1], [10, 5, None, 1]),
    "then nothing": ([None, 12, 12, None], [None, 9, 9, None]),
}
"""Patches kept, block by block."""


def rates_of(kind, prefix):
    prune, merge = RATES[kind]
    return Rates(*(tuple(n and n + prefix for n in counts) for counts in (prune, merge)))


def dense(kind="class token"):
    return tiny_vit(depth=DEPTH, **MODELS[kind])


def compressed(model, rates, sizes="exact", *, factorized=False):
    model = copy.deepcopy(model)
    form = tokens_of(model)
    model.blocks = TokenBlocks(model.blocks.children(), rates, form, sizes).eval()
    return model


def embedded(model, images):
    """What enters the blocks."""
    return model.norm_pre(model._pos_embed(model.patch_embed(images)))


# The same by loops.


class Token(NamedTuple):
    x: Tensor
    """(C,)."""
    size: float
    origins: frozenset[int]
    """The first tokens that it stands for."""


def attended(block, x, sizes, scoring):
    """One image's tokens (N, C) after the attention, and the importance of each."""
    attention = block.attn if hasattr(block, "attn") else block.token_mixer
    y = block.norm1(x)
    q, k, v = attention.qkv(y).chunk(3, dim=-1)
    heads, rows = [], []
    for head in range(attention.num_heads):
        own = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        queries, keys = q[:, own], k[:, own]
        if hasattr(attention, "q_norm"):
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        scores = queries @ keys.T * attention.head_dim**-0.5
        weights = torch.exp(scores) * torch.tensor(sizes)
        weights = weights / weights.sum(-1, keepdim=True)
        heads.append(weights @ v[:, own])
        rows.append(weights[: scoring or None])
    y = attention.proj(torch.cat(heads, dim=-1))
    scores = torch.stack(rows).mean((0, 1)).tolist()
    if hasattr(block, "attn"):
        return x + block.ls1(y), scores
    return block.res_scale1(x) + block.layer_scale1(y), scores


def merged(tokens, count, fixed, plain_sums):
    """The first so many tokens, each with the sources that are most like it."""
    kept, groups = tokens[:count], [[token] for token in tokens[:count]]
    sizes = [token.size for token in kept]
    for token in tokens[count:]:
        likeness = [F.cosine_similarity(token.x, other.x, dim=0).item() for other in kept]
        best = max(range(fixed, count), key=likeness.__getitem__)
        groups[best].append(token)
        sizes[best] += token.size * (1 if plain_sums else max(likeness[best], 0))
    return [
        Token(
            torch.stack([token.x for token in group]).mean(0),
            size,
            frozenset.union(*(token.origins for token in group)),
        )
        for group, size in zip(groups, sizes, strict=True)
    ]


def by_loops(blocks, x, rates, form):
    """One image's tokens after every block, from the (T, C) that enter the first."""
    tokens = [Token(row, 1.0, frozenset({n})) for n, row in enumerate(x)]
    after = []
    for block, prune, merge in zip(blocks, rates.prune, rates.merge, strict=True):
        rows, scores = attended(
            block, torch.stack([t.x for t in tokens]), [t.size for t in tokens], form.scoring
        )
        tokens = [t._replace(x=row) for t, row in zip(tokens, rows, strict=True)]
        first, rest = tokens[: form.prefix], range(form.prefix, len(tokens))
        tokens = first + [tokens[n] for n in sorted(rest, key=lambda n: -scores[n])]
        tokens = tokens[:prune]
        if merge is not None and merge < len(tokens):
            tokens = merged(tokens, merge, form.prefix + form.merges_only, form.merges_only)
        x = torch.stack([t.x for t in tokens])
        y = block.mlp(block.norm2(x))
        if hasattr(block, "attn"):
            x = x + block.ls2(y)
        else:
            x = block.res_scale2(x) + block.layer_scale2(y)
        tokens = [t._replace(x=row) for t, row in zip(tokens, x, strict=True)]
        after.append(tokens)
    return after


def logits_by_loops(model, images, rates):
    form, logits = tokens_of(model), []
    for x in embedded(model, images):
        tokens = by_loops(model.blocks, x, rates, form)[-1]
        x = torch.stack([t.x for t in tokens])
        if form.pooled:
            sizes = torch.tensor([t.size for t in tokens[form.prefix :]])[:, None]
            mean = (x[form.prefix :] * sizes).sum(0) / sizes.sum()
            logits.append(model.head(model.fc_norm(mean)))
        else:
            logits.append(model.forward_head(model.norm(x)[None])[0])
    return torch.stack(logits)


def close(actual, expected, atol=2e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rates", RATES)
def test_logits_are_those_of_loops_over_tokens(kind, rates):
    model = dense(kind)
    rates = rates_of(rates, tokens_of(model).prefix)
    images = tiny_images(3)
    close(compressed(model, rates)(images), logits_by_loops(model, images, rates))


@pytest.mark.parametrize("kind", ["class token", "no class token"])
def test_gradients_are_those_of_loops_over_tokens(kind):
    found, expected = dense(kind), dense(kind)
    rates, images = rates_of("both", tokens_of(found).prefix), tiny_images(2)
    model = compressed(found, rates)
    model(images).square().mean().backward()
    logits_by_loops(expected, images, rates).square().mean().backward()
    pairs = zip(model.named_parameters(), expected.named_parameters(), strict=True)
    for (name, parameter), (other, wanted) in pairs:
        assert name == other
        if wanted.grad is not None:
            close(parameter.grad, wanted.grad, atol=1e-4 * float(wanted.grad.abs().max()) + 1e-7)


@pytest.mark.parametrize("kind", MODELS)
def test_counts_that_change_nothing_give_exactly_timm_s_outputs(kind):
    model = dense(kind)
    prefix = tokens_of(model).prefix
    for rates in (rates_of("nothing", prefix), Rates((prefix + 16,) * 4, (999,) * 4)):
        same = compressed(model, rates)
        assert torch.equal(same(tiny_images()), model(tiny_images()))
        assert count_macs(same, (3, 16, 16)) == count_macs(model, (3, 16, 16))


@pytest.mark.parametrize("kind", ["class token", "distilled", "no class token"])
@pytest.mark.parametrize("rates", ["pruned", "both", "from the first"])
def test_traced_are_the_patches_that_every_token_stands_for(kind, rates):
    model = dense(kind)
    form = tokens_of(model)
    rates = rates_of(rates, form.prefix)
    x = embedded(model, tiny_images(3))
    found = compressed(model, rates).blocks.trace(x)
    assert len(found) == DEPTH
    for image in range(3):
        expected = by_loops(model.blocks, x[image], rates, form)
        for mask, tokens in zip(found, expected, strict=True):
            groups = [frozenset(row.nonzero().flatten().tolist()) for row in mask[image]]
            assert len(groups) == len(tokens)
            # The loops sort in blocks that change nothing, too.
            assert set(groups) == {token.origins for token in tokens}


# CAFormer's blocks.

MERGED = Rates((None,) * 4, (None, 12, 9, 5))
STAGE = TokenSequence(
    "stages.2.blocks",
    DEPTH,
    PATCHES,
    0,
    0,
    pooled=False,
    merges_only=True,
    width=32,
    steps=MetaFormerSteps(),
)


@pytest.fixture
def stage():
    """Blocks of a CAFormer's third stage."""
    options = {"head_dim": 8, "use_nchw": False, "res_scale_init_value": 2.0}
    blocks = [
        MetaFormerBlock(32, Attention, StarReLU, norm_layer=LayerNorm, **options)
        for _ in range(DEPTH)
    ]
    stage = torch.nn.Sequential(*blocks).eval()
    draw_parameters_(stage, 0)
    # Square activations of four blocks would drown what comes in.
    for name, parameter in stage.named_parameters():
        if name.endswith("fc2.weight"):
            parameter.data *= 0.1
    return stage


def test_merged_tokens_come_back_as_copies(stage):
    x = torch.randn(3, PATCHES, 32, generator=torch.Generator().manual_seed(0))
    found = TokenBlocks(stage, MERGED, STAGE).eval()(x)
    assert found.shape == x.shape
    for image in range(3):
        tokens = by_loops(stage, x[image], MERGED, STAGE)[-1]
        assert len(tokens) == 5
        for token in tokens:
            for position in token.origins:
                close(found[image, position], token.x)


def test_where_all_tokens_score_their_attention_has_its_dropout(stage):
    x = torch.randn(1, PATCHES, 32, generator=torch.Generator().manual_seed(0))
    blocks = TokenBlocks(stage, MERGED, STAGE).eval()
    quiet = blocks(x)
    for block in blocks:
        block.token_mixer.attn_drop.p = 0.5
    assert torch.equal(blocks(x), quiet)
    blocks.train()
    assert not torch.allclose(blocks(x), quiet)


def test_pruning_what_is_only_merged_is_refused(stage):
    with pytest.raises(ValueError, match=r"stages.2.blocks.1.prune: got 12, allowed: None"):
        TokenBlocks(stage, Rates((None, 12, None, None), (None,) * 4), STAGE)


# Sizes.


def opposed(model):
    """Make tokens of the last two blocks point to both sides of the origin."""
    with torch.no_grad():
        for block in model.blocks:
            for parameter in block.mlp.parameters():
                parameter.zero_()
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
    signs = torch.tensor([1.0, -1.0]).repeat(20)[:17]
    source = torch.Generator().manual_seed(0)
    line = torch.randn(32, generator=source)
    # The class token first, then patches on one line: those less important face the others.
    return signs[:, None] * line + 1e-3 * torch.randn(2, 17, 32, generator=source)


@pytest.mark.parametrize("count", [2, 3])
def test_sizes_stay_above_zero_whatever_tokens_are_like(count):
    model = dense()
    x = opposed(model)
    rates = Rates((None,) * 4, (None, 9, 5, count))
    exact, sizes, _ = compressed(model, rates).blocks.run(x)
    assert exact.isfinite().all() and (sizes >= 1).all() and sizes.dtype == torch.float32
    _, reference, _ = compressed(model, rates, "reference").blocks.run(x)
    # What the published code takes away, down to logarithms of what is below zero.
    assert not (reference >= 1).all()


# Low-rank weights and fewer tokens on one model.


def test_low_rank_weights_at_full_rank_change_nothing():
    model, ranked = dense(), dense()
    method = LowRank(ranked, LowRankConfig(allow_larger=True))
    method.commit_(Plan("lowrank", {site.name: site.full for site in method.sites}))
    rates = rates_of("both", 1)
    found = compressed(ranked.eval(), rates, factorized=True)
    close(found(tiny_images()), compressed(model, rates)(tiny_images()), atol=1e-4)
    assert {type(block.attn) for block in found.blocks} == {LowRankAttention}


# What is refused.


@pytest.mark.parametrize(
    ("prune", "merge", "message"),
    [
        ([9] * 3, [None] * 4, r"rates.prune: got '3 counts', allowed: 4"),
        ([9] * 4, [None] * 5, r"rates.merge: got '5 counts', allowed: 4"),
        ([None, 9, 1, 9], [None] * 4, r"blocks.2.prune: got 1, allowed: 2 or more"),
        ([None] * 4, [None, None, None, 1], r"blocks.3.merge: got 1, allowed: 2 or more"),
    ],
)
def test_rates_that_the_model_cannot_have_are_refused(prune, merge, message):
    with pytest.raises(ValueError, match=message):
        compressed(dense(), Rates(tuple(prune), tuple(merge)))
