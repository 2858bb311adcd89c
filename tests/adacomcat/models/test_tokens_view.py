import pytest
import timm
import torch
from timm.layers import GluMlp
from timm.models.metaformer import SepConv
from timm.models.vision_transformer import ParallelThingsBlock

from adacomcat.config import ModelConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.models.heads import BlockContainer
from adacomcat.models.registry import create_model, tokens_of
from adacomcat.models.timm_vit import VisionTransformerSteps
from adacomcat.models.tokens import TokenSequence
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_caformer, tiny_images, tiny_vit

DISTILLED = "deit_tiny_distilled_patch16_224"


def sequence_of(*geometry):
    """What is expected; how the blocks compute is no part of a comparison."""
    return TokenSequence(*geometry, width=32, steps=VisionTransformerSteps())


KINDS = {
    "class token": (tiny_vit, sequence_of("blocks", 2, 16, 1, 1, False)),
    "DeiT III": (
        lambda: tiny_vit("deit3_small_patch16_224"),
        sequence_of("blocks", 2, 16, 1, 1, False),
    ),
    "distilled": (lambda: tiny_vit(DISTILLED), sequence_of("blocks", 2, 16, 2, 2, False)),
    "registers": (lambda: tiny_vit(reg_tokens=4), sequence_of("blocks", 2, 16, 5, 1, False)),
    "MAE": (
        lambda: tiny_vit("vit_base_patch16_224.mae", global_pool="avg"),
        sequence_of("blocks", 2, 16, 1, 1, True),
    ),
    "no class token": (
        lambda: tiny_vit(class_token=False, global_pool="avg"),
        sequence_of("blocks", 2, 16, 0, 0, True),
    ),
    "registers alone": (
        lambda: tiny_vit(class_token=False, reg_tokens=2, global_pool="avg"),
        sequence_of("blocks", 2, 16, 2, 0, True),
    ),
    "no norm at all": (
        lambda: tiny_vit(final_norm=False, global_pool="avg"),
        sequence_of("blocks", 2, 16, 1, 1, True),
    ),
    "qk_norm": (lambda: tiny_vit(qk_norm=True), sequence_of("blocks", 2, 16, 1, 1, False)),
    "CAFormer": (tiny_caformer, sequence_of("stages.2.blocks", 4, 16, 0, 0, False, True)),
    "no downsampling": (
        lambda: tiny_caformer(dims=[16, 32, 32, 96]),
        sequence_of("stages.2.blocks", 4, 64, 0, 0, False, True),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_form(kind):
    build, expected = KINDS[kind]
    assert tokens_of(build()) == expected


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_are_those_that_the_blocks_see(kind):
    """The prefix is what does not change with the image; patches are all that does."""
    model = KINDS[kind][0]()
    form = tokens_of(model)
    container, seen = model.get_submodule(form.container), []
    container[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    side = 64 if form.merges_only else 16
    model(torch.cat([tiny_images(1, side=side), tiny_images(1, side=side, seed=1)]))
    assert seen[0].shape[1] == form.tokens and len(container) == form.depth
    constant = (seen[0][0] == seen[0][1]).all(-1)
    assert constant.tolist() == [True] * form.prefix + [False] * form.patches


PUBLISHED = {
    "deit_small_patch16_224": ({}, sequence_of("blocks", 12, 196, 1, 1, False)),
    "deit_base_distilled_patch16_224": ({}, sequence_of("blocks", 12, 196, 2, 2, False)),
    "vit_large_patch16_224.mae": (
        {"global_pool": "avg"},
        sequence_of("blocks", 24, 196, 1, 1, True),
    ),
    "vit_huge_patch14_224.mae": (
        {"global_pool": "avg"},
        sequence_of("blocks", 32, 256, 1, 1, True),
    ),
    "caformer_s36": ({}, sequence_of("stages.2.blocks", 18, 196, 0, 0, False, True)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_with_published_rates(name):
    options, expected = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(
            ModelConfig(name=name, options=options), num_classes=7, in_chans=3, image_size=224
        )
    assert tokens_of(model) == expected


@pytest.mark.parametrize(("side", "tokens"), [(64, 16), (90, 36), (28, 4)])
@torch.no_grad()
def test_an_image_of_another_side_has_other_tokens(side, tokens):
    model, seen = tiny_caformer(side=side), []
    blocks = model.stages[2].blocks
    hook = blocks.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    model(tiny_images(1, side=side))
    hook.remove()
    assert tokens_of(model).patches == tokens == seen[0].shape[1]


def test_low_rank_modules_may_stand_in_blocks():
    model = tiny_vit()
    method = LowRank(model, LowRankConfig())
    form = tokens_of(model)
    method.commit_(Plan("lowrank", {s.name: s.candidates[0].rank for s in method.sites}))
    assert tokens_of(model) == form
    with pytest.raises(ValueError, match=r"blocks\.0\.attn: got 'LowRankAttention', .*dense model"):
        DiffRate(model, DiffRateConfig())


def container_of(module):
    """Another container of the same blocks, as one that compresses tokens is."""
    return type("Container", (BlockContainer,), {})(*module.children())


def test_another_container_may_hold_the_blocks():
    for build in (tiny_vit, tiny_caformer):
        model = build()
        form = tokens_of(model)
        model.set_submodule(form.container, container_of(model.get_submodule(form.container)))
        assert tokens_of(model) == form


def checkpointing(model):
    model.set_grad_checkpointing(True)
    return model


def gated():
    model = tiny_vit()
    model.blocks[1].attn.gate = torch.nn.Linear(32, 32)
    return model


UNSUPPORTED = {
    "ResNet": (lambda: timm.create_model("resnet18"), "model: got 'ResNet', .*VisionTransformer"),
    "relative positions": (
        lambda: timm.create_model("vit_relpos_small_patch16_224"),
        "model: got 'VisionTransformerRelPos', .*VisionTransformer",
    ),
    "windows": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=[1, 1, 1, 1]),
        "model: got 'SwinTransformer'",
    ),
    "rotary positions": (
        lambda: timm.create_model("eva02_tiny_patch14_224", depth=1),
        "model: got 'Eva'",
    ),
    "gate": (gated, r"blocks\.1\.attn\.gate: got 'Linear', allowed: no gate"),
    "gated MLP": (lambda: tiny_vit(mlp_layer=GluMlp), r"blocks\.0\.mlp: got 'GluMlp'"),
    "parallel blocks": (
        lambda: tiny_vit(block_fn=ParallelThingsBlock),
        r"blocks\.0: got 'ParallelThingsBlock', .*plain Block",
    ),
    "maximum": (
        lambda: tiny_vit(global_pool="max"),
        "model.global_pool: got 'max', allowed: token, avg$",
    ),
    "mean and maximum": (lambda: tiny_vit(global_pool="avgmax"), "model.global_pool: got 'avgmax'"),
    "attention pooling": (
        lambda: tiny_vit(global_pool="map", class_token=False),
        "model.global_pool: got 'map'",
    ),
    "norm before the mean": (
        lambda: tiny_vit(global_pool="avg", fc_norm=False),
        r"model\.norm: got 'LayerNorm', allowed: a norm after the mean",
    ),
    "mean over all tokens": (
        lambda: tiny_vit(global_pool="avg", pool_include_prefix=True),
        "model.pool_include_prefix: got True",
    ),
    "patch dropout": (
        lambda: tiny_vit(patch_drop_rate=0.1),
        "model.patch_drop: got 'PatchDropout', allowed: no patch_drop_rate",
    ),
    "checkpointing": (
        lambda: checkpointing(tiny_vit()),
        "model.grad_checkpointing: got True, allowed: False with compressed tokens",
    ),
    "checkpointing of a stage": (
        lambda: checkpointing(tiny_caformer()),
        r"stages\.2\.grad_checkpointing: got True",
    ),
    "no attention in the third stage": (
        lambda: timm.create_model("poolformer_s12"),
        r"stages\.2\.blocks\.0\.token_mixer: got 'Pooling', allowed: Attention",
    ),
    "no attention in the fourth stage": (
        lambda: tiny_caformer(
            token_mixers=[SepConv, SepConv, timm.models.metaformer.Attention, SepConv],
            norm_layers=timm.models.metaformer.LayerNorm2dNoBias,
        ),
        r"stages\.3\.blocks\.0\.token_mixer: got 'SepConv'",
    ),
    "three stages": (
        lambda: tiny_caformer(depths=[1, 1, 2], dims=[16, 32, 64]),
        "model.stages: got 3, allowed: 4",
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_is_not_supported_is_named(what):
    build, message = UNSUPPORTED[what]
    with pytest.raises(ValueError, match=message):
        tokens_of(build())


def test_a_caformer_without_an_image_size_is_named():
    model = tiny_caformer()
    del model.pretrained_cfg
    with pytest.raises(ValueError, match=r"model\.pretrained_cfg\.input_size: got \(\), allowed"):
        tokens_of(model)
