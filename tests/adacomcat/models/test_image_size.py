import pytest
import timm
import torch

from adacomcat.config import ModelConfig
from adacomcat.models.registry import create_model, family_for, input_shape

SIZES = {"embed_dim": 48, "depth": 1, "num_heads": 3}


def size_of(name, state, **options):
    config = ModelConfig(name=name, options=SIZES | options)
    return family_for(name).image_size_of(config, state)


@pytest.mark.parametrize("side", [56, 112])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch14_dinov2", {}),
        ("vit_small_patch14_reg4_dinov2", {}),
        ("deit_tiny_distilled_patch16_224", {"patch_size": 14}),
        ("deit3_small_patch16_224", {"patch_size": 14}),
        ("vit_base_patch16_clip_224", {"patch_size": 14}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "patch_size": 14}),
    ],
)
def test_positions_tell_the_image_size(name, options, side):
    model = timm.create_model(name, img_size=side, **SIZES, **options)
    assert size_of(name, model.state_dict(), **options) == side


def test_names_of_other_authors_are_known():
    # Registers have no positions there, the class token has one.
    dinov2 = {"pos_embed": torch.zeros(1, 1 + 64, 48), "register_tokens": torch.zeros(1, 4, 48)}
    assert size_of("vit_small_patch14_reg4_dinov2", dinov2) == 8 * 14
    clip = {
        "positional_embedding": torch.zeros(77, 48),
        "visual.positional_embedding": torch.zeros(1 + 49, 48),
    }
    assert size_of("vit_base_patch16_clip_224", clip, patch_size=14) == 7 * 14


@pytest.mark.parametrize(
    "state",
    [{}, {"pos_embed": torch.zeros(1, 7, 48)}, {"pos_embed": torch.zeros(1, 17, 32)}],
    ids=["none", "no square", "another width"],
)
def test_where_nothing_tells_the_image_size(state):
    assert size_of("vit_tiny_patch16_224", state) is None
    assert family_for("caformer_s18").image_size_of(ModelConfig(name="caformer_s18"), state) is None


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_small_patch14_dinov2", 518),
        ("vit_tiny_patch16_384", 384),
        ("deit_tiny_patch16_224", 224),
        ("caformer_s18", 224),
    ],
)
def test_a_name_has_an_image_size_of_its_own(name, side):
    assert family_for(name).image_size(name) == side
    with torch.device("meta"):
        model = create_model(ModelConfig(name=name), num_classes=3, in_chans=3, image_size=side)
    assert input_shape(model) == (3, side, side)
