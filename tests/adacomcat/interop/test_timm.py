import pytest
import timm
import torch
from timm.layers import GluMlp, SwiGLU
from timm.models.vision_transformer import ParallelThingsBlock

from adacomcat.config import ModelConfig
from adacomcat.interop.timm import create_model, describe, input_shape
from adacomcat.testing.models import tiny_vit

SIZES = {"num_classes": 10, "in_chans": 1, "image_size": 16}
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 4}


def create(name="vit_tiny_patch16_224", sizes=(), **options):
    return create_model(ModelConfig(name=name, options=TINY | options), **(SIZES | dict(sizes)))


def test_create_model():
    model = create(depth=3, qkv_bias=False)
    assert input_shape(model) == (1, 16, 16)
    assert len(model.blocks) == 3
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_options_win_over_the_data():
    assert input_shape(create(img_size=8, in_chans=3)) == (3, 8, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tini", {}, r"model\.name: got 'vit_tini'"),
        ("vit_tiny_patch16_224", {"embed_dim": 30}, r"model\.options\.embed_dim: got 30, .*\(4\)"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, r"model\.options\.embed_dim: got 32, .*\(5\)"),
        ("vit_tiny_patch16_224", {"patch_size": 5}, r"model\.options\.patch_size: got 5, .*16"),
        ("vit_tiny_patch16_224", {"heads": 4}, r"model\.options: .*'heads'"),
        ("vit_tiny_patch16_224", {"qk_norm": True, "norm_layer": 3}, r"model\.options"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create(name, **options)


def test_a_width_that_the_models_own_heads_do_not_divide():
    with pytest.raises(ValueError, match=r"model\.options: .*divisible by num_heads"):
        create_model(ModelConfig(options={"embed_dim": 32, "patch_size": 4}), **SIZES)


def test_describe_names_the_parts():
    view = describe(tiny_vit("deit_tiny_distilled_patch16_224"))
    assert (view.width, view.heads, view.head_width, view.depth) == (32, 4, 8, 2)
    assert view.tokens == 16 + 2
    assert view.attentions == ("blocks.0.attn", "blocks.1.attn")
    assert view.linears[:2] == (
        ("blocks.0.fc1", "blocks.0.mlp.fc1", "fc1"),
        ("blocks.0.fc2", "blocks.0.mlp.fc2", "fc2"),
    )
    assert view.linears[-2:] == (("head", "head", "head"), ("head_dist", "head_dist", "head"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit3_small_patch16_224", {}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4, "no_embed_class": True}),
    ],
)
def test_tokens_are_those_that_the_blocks_see(name, options):
    model = tiny_vit(name, **options)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    model(torch.zeros(1, 3, 16, 16))
    assert describe(model).tokens == seen[0][1]


def resnet():
    return timm.create_model("resnet18")


def relative_positions():
    return tiny_vit("vit_relpos_small_patch16_224")


UNSUPPORTED = {
    "ResNet": (resnet, "model: got 'ResNet', .*VisionTransformer"),
    "relative positions": (relative_positions, "model: got 'VisionTransformerRelPos'"),
    "qk_norm": (lambda: tiny_vit(qk_norm=True), r"blocks\.0\.attn\.q_norm: .*no qk_norm"),
    "scale_norm": (
        lambda: tiny_vit(scale_attn_norm=True),
        r"blocks\.0\.attn\.norm: .*no scale_norm",
    ),
    "gated MLP": (
        lambda: tiny_vit(mlp_layer=GluMlp),
        r"blocks\.0\.mlp: got 'GluMlp', .*plain Mlp",
    ),
    "SwiGLU": (lambda: tiny_vit(mlp_layer=SwiGLU), r"blocks\.0\.mlp: got 'SwiGLU'"),
    "attention pooling": (
        lambda: tiny_vit(global_pool="map", class_token=False),
        r"model\.global_pool: got 'map', allowed: token, avg",
    ),
    "parallel blocks": (
        lambda: tiny_vit(block_fn=ParallelThingsBlock),
        r"blocks\.0: got 'ParallelThingsBlock', .*plain Block",
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_is_not_supported_is_named(what):
    build, message = UNSUPPORTED[what]
    with pytest.raises(ValueError, match=message):
        describe(build())


def test_a_late_block_is_looked_at_too():
    model = tiny_vit()
    model.blocks[1].attn.gate = torch.nn.Linear(32, 32)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.gate: got 'Linear', allowed: no gate"):
        describe(model)
    model = tiny_vit()
    model.blocks[1].mlp.fc2 = torch.nn.Conv2d(128, 32, 1)
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc2: got 'Conv2d', allowed: Linear"):
        describe(model)
