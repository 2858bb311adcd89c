import pytest
import timm
import torch
from timm.layers import GluMlp, SwiGLU
from timm.models.vision_transformer import ParallelThingsBlock

import adacomcat
from adacomcat.config import ModelConfig
from adacomcat.cost import count_macs
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.base import LinearView
from adacomcat.models.registry import create_model, family_of, input_shape, tokens_of, view_of
from adacomcat.testing.models import draw_parameters_, tiny_caformer, tiny_images, tiny_vit

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
        ("vit_tiny_patch16_224", {"heads": 4}, r"model\.options\.heads: got 4, .*'heads'"),
        ("vit_tiny_patch16_224", {"qk_norm": True, "norm_layer": 3}, r"model\.options"),
        (
            "resnet18",
            {},
            r"model\.name: got 'resnet18', .*timm ViT.* \(timm has it in resnet\)",
        ),
        ("caformer_s18", {"patch_size": 5}, r"model\.options\.patch_size: got 5, .*16"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create(name, **options)


def test_a_width_that_the_models_own_heads_do_not_divide():
    message = r"model\.options\.embed_dim: got 32, .*divisible by num_heads"
    with pytest.raises(ValueError, match=message):
        create_model(ModelConfig(options={"embed_dim": 32, "patch_size": 4}), **SIZES)


def test_describe_names_the_parts():
    view = view_of(tiny_vit("deit_tiny_distilled_patch16_224"))
    assert [block.name for block in view.blocks] == ["blocks.0", "blocks.1"]
    for block in view.blocks:
        attention = block.attention
        assert (block.width, block.tokens) == (attention.width, attention.tokens) == (32, 18)
        assert attention.module == f"{block.name}.attn" and attention.pairs == 18**2
        assert (attention.heads, attention.head_width, attention.value_width) == (4, 8, 8)
        assert (attention.scale, attention.between) == (8**-0.5, "nothing")
        assert attention.products == ("qk", "vo")
        assert block.linears == (
            LinearView(f"{block.name}.fc1", f"{block.name}.mlp.fc1", "fc1", 32, 128, 18),
            LinearView(f"{block.name}.fc2", f"{block.name}.mlp.fc2", "fc2", 128, 32, 18),
        )
    assert view.classifiers == (
        LinearView("head", "head", "head", 32, 10, 1),
        LinearView("head_dist", "head_dist", "head", 32, 10, 1),
    )


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
    assert [block.tokens for block in view_of(model).blocks] == [seen[0][1]] * 2


def resnet():
    return timm.create_model("resnet18")


def relative_positions():
    return tiny_vit("vit_relpos_small_patch16_224")


UNSUPPORTED = {
    "ResNet": (resnet, "model: got 'ResNet', .*VisionTransformer"),
    "relative positions": (relative_positions, "model: got 'VisionTransformerRelPos'"),
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
        view_of(build())


def test_a_late_block_is_looked_at_too():
    model = tiny_vit()
    model.blocks[1].attn.gate = torch.nn.Linear(32, 32)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.gate: got 'Linear', allowed: no gate"):
        view_of(model)
    model = tiny_vit()
    model.blocks[1].mlp.fc2 = torch.nn.Conv2d(128, 32, 1)
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc2: got 'Conv2d', allowed: Linear"):
        view_of(model)


# CAFormer, which takes images of any size.


@pytest.fixture(scope="module")
def caformer():
    """timm has no smaller one by name."""
    config = ModelConfig(name="caformer_s18", options={"drop_path_rate": 0.1})
    model = create_model(config, num_classes=5, in_chans=3, image_size=32)
    draw_parameters_(model, 0)
    return model.eval()


def test_a_caformer_knows_its_images(caformer):
    assert input_shape(caformer) == (3, 32, 32)
    options = {"num_classes": 5, "in_chans": 3, "drop_path_rate": 0.1}
    assert family_of(caformer).creation(caformer) == ("caformer_s18", options)
    assert caformer(tiny_images(2, side=32)).shape == (2, 5)


def test_what_a_caformer_was_made_from_is_read_off_it():
    with torch.device("meta"):
        model = timm.create_model("caformer_s18", num_classes=7, in_chans=1, global_pool="max")
        options = {"num_classes": 7, "in_chans": 1, "global_pool": "max"}
        assert family_of(model).creation(model) == ("caformer_s18", options)
        again = timm.create_model("caformer_s18", **options)
    assert repr(again) == repr(model)
    assert input_shape(model) == (1, 224, 224)


def test_a_caformer_is_not_factorized():
    with pytest.raises(ValueError, match="model: got 'MetaFormer', allowed: timm's VisionTransfor"):
        view_of(tiny_caformer())


@pytest.mark.parametrize("kept", [None, 3])
@torch.no_grad()
def test_a_caformer_is_saved_and_loaded(caformer, tmp_path, kept):
    form, images = tokens_of(caformer), tiny_images(2, side=32)
    held = caformer.stages[2].blocks
    if kept is not None:
        rates = Rates((None,) * form.depth, (None, kept) + (None,) * (form.depth - 2))
        caformer.stages[2].blocks = TokenBlocks(held.children(), rates, form)
    try:
        expected, macs = caformer(images), count_macs(caformer, (3, 32, 32))
        adacomcat.save(caformer, tmp_path)
    finally:
        caformer.stages[2].blocks = held
    loaded = adacomcat.load(tmp_path)
    assert type(loaded.stages[2].blocks) is (torch.nn.Sequential if kept is None else TokenBlocks)
    assert torch.equal(loaded(images), expected)
    assert torch.equal(expected, caformer(images)) == (kept is None)
    assert input_shape(loaded) == (3, 32, 32) and count_macs(loaded, (3, 32, 32)) == macs


def macs_of_a_caformer(depths, dims, classes, side):
    """Multiply-accumulates by hand, layer by layer; all biases and norms left out."""
    total, inputs, positions = 0, 3, 0
    for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        side = (side - 3) // 4 + 1 if stage == 0 else (side - 1) // 2 + 1
        positions, kernel = side * side, 7 if stage == 0 else 3
        total += positions * width * inputs * kernel**2
        mlp = positions * 8 * width**2
        # Two 1 x 1 convolutions to and from twice the width, one of 7 x 7 a channel between.
        convolution = positions * (4 * width**2 + 2 * width * 49)
        attention = positions * 4 * width**2 + 2 * positions**2 * width
        total += depth * (mlp + (convolution if stage < 2 else attention))
        inputs = width
    return total + 4 * inputs**2 + 4 * inputs * classes


def test_macs_of_a_caformer():
    depths, dims = [1, 1, 4, 2], [16, 32, 64, 96]
    found = count_macs(tiny_caformer(), (3, 64, 64))
    assert found == macs_of_a_caformer(depths, dims, 10, 64)
