"""The halves of a block, put together again, against the block itself."""

import pytest
import torch
from timm.layers import LayerNorm
from timm.models.metaformer import Attention as MetaFormerAttention
from timm.models.metaformer import MetaFormerBlock, StarReLU
from timm.models.vision_transformer import Block

from adacomcat.config import BudgetConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.models.heads import attend
from adacomcat.models.timm_metaformer import MetaFormerSteps
from adacomcat.models.timm_vit import VisionTransformerSteps
from adacomcat.testing.models import draw_parameters_, tiny_vit

WIDTH, HEADS = 32, 4


def images(seed=0):
    return torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(seed))


def plain(**options):
    block = Block(WIDTH, HEADS, **({"qkv_bias": True} | options))
    draw_parameters_(block, 0)
    return block.eval()


def metaformer():
    block = MetaFormerBlock(
        WIDTH,
        MetaFormerAttention,
        StarReLU,
        norm_layer=LayerNorm,
        head_dim=8,
        use_nchw=False,
        layer_scale_init_value=0.5,
        res_scale_init_value=2.0,
    )
    draw_parameters_(block, 0)
    return block.eval()


def low_rank():
    model = tiny_vit()
    method = LowRank(model, LowRankConfig())
    method.commit_(method.default_plan(method.budget(BudgetConfig(reduction=0.4))))
    return model.blocks[1]


def searched():
    model = tiny_vit()
    method = LowRank(model, LowRankConfig())
    with torch.no_grad():
        method.mixture.logits.normal_(generator=torch.Generator().manual_seed(1))
    method.prepare_()
    method.sample_(1.0, None)
    return model.blocks[1]


BLOCKS = {
    "plain": plain,
    "no biases": lambda: plain(qkv_bias=False, proj_bias=False),
    "layer scale": lambda: plain(init_values=0.3),
    "norms": lambda: plain(qk_norm=True, scale_attn_norm=True, scale_mlp_norm=True),
    "metaformer": metaformer,
    "low-rank": low_rank,
    "in a search": searched,
}


def steps_of(block):
    return MetaFormerSteps() if isinstance(block, MetaFormerBlock) else VisionTransformerSteps()


def attended(block, q, k, v, bias=None):
    """What heads take from their values, all tensors (B, H, N, their width)."""
    scale = steps_of(block).scale(block)
    heads = attend(*(t.transpose(1, 2) for t in (q, k, v)), scale=scale, attn_mask=bias)
    return heads.transpose(1, 2)


def joined(block, x, bias=None):
    steps = steps_of(block)
    y = steps.finish(block, attended(block, *steps.project(block, x), bias))
    return steps.add_mlp(block, steps.add_attention(block, x, y))


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_pieces_together_are_the_block(kind):
    block = BLOCKS[kind]()
    torch.testing.assert_close(joined(block, images()), block(images()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", BLOCKS)
def test_heads_are_plain_attention_of_what_was_projected(kind):
    block = BLOCKS[kind]()
    q, k, v = steps_of(block).project(block, images())
    assert q.shape == k.shape and q.shape[:3] == v.shape[:3] == (2, HEADS, 7)
    bias = torch.randn(2, 1, 1, 7, generator=torch.Generator().manual_seed(1))
    expected = torch.empty_like(v)
    # The scale is that of the dense head, whatever the rank.
    for image in range(2):
        for head in range(HEADS):
            scores = q[image, head] @ k[image, head].T * 8**-0.5 + bias[image, 0]
            expected[image, head] = scores.softmax(-1) @ v[image, head]
    torch.testing.assert_close(attended(block, q, k, v, bias), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["plain", "metaformer", "low-rank", "in a search"])
def test_dropout_is_of_training_alone_and_never_of_a_search(kind):
    block = BLOCKS[kind]()
    steps, attention = steps_of(block), steps_of(block).attention(block)
    if kind != "in a search":
        attention.attn_drop.p = 0.5
    assert steps.dropout(block) == 0.0
    attention.train()
    assert steps.dropout(block) == (0.0 if kind == "in a search" else 0.5)


@pytest.mark.parametrize("kind", ["plain", "metaformer"])
def test_stochastic_depth_is_the_block_s(kind):
    block = BLOCKS[kind]().train()
    for name in ("drop_path1", "drop_path2"):
        # The whole branch falls away.
        setattr(block, name, torch.nn.Dropout(1.0))
    torch.testing.assert_close(joined(block, images()), block(images()), rtol=0, atol=0)
