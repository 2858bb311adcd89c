"""Options of timm that make no sense: each one line that names it."""

import pytest
import timm
import torch

from adacomcat.config import ModelConfig
from adacomcat.models.registry import create_model
from adacomcat.seeds import seed_everything

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 4}


def create(name="vit_tiny_patch16_224", **options):
    config = ModelConfig(name=name, options=options)
    return create_model(config, num_classes=10, in_chans=3, image_size=16)


REFUSED = [
    ({"depth": 0}, r"depth: got 0, allowed: an integer from 1 to 1,000"),
    ({"depth": 10**9}, r"depth: got 1000000000, allowed: an integer from 1 to 1,000"),
    ({"depth": True}, r"depth: got True"),
    ({"depth": 2.5}, r"depth: got 2\.5"),
    ({"num_heads": 0}, r"num_heads: got 0"),
    ({"num_heads": "abc"}, r"num_heads: got 'abc'"),
    ({"embed_dim": "abc"}, r"embed_dim: got 'abc'"),
    ({"embed_dim": None}, r"embed_dim: got None"),
    ({"patch_size": 0}, r"patch_size: got 0"),
    ({"patch_size": [4, 0]}, r"patch_size: got \[4, 0\]"),
    ({"img_size": [16, 16, 16]}, r"img_size: got \[16, 16, 16\]"),
    ({"img_size": {}}, r"img_size: got \{\}"),
    ({"num_classes": -1}, r"num_classes: got -1, allowed: an integer from 0"),
    ({"in_chans": 0}, r"in_chans: got 0"),
    ({"act_layer": "gleu"}, r"act_layer: got 'gleu', allowed: what timm .*KeyError: 'gleu'"),
    ({"norm_layer": "abc"}, r"norm_layer: got 'abc', allowed: what timm"),
    (
        {"global_pool": "abc"},
        r"global_pool: got 'abc', allowed: what timm .*\(AssertionError: Only",
    ),
    ({"mlp_ratio": -1}, r"mlp_ratio: got -1, allowed: a number of 0 or more"),
    ({"mlp_ratio": float("nan")}, r"mlp_ratio: got nan"),
    ({"drop_path_rate": 2}, r"drop_path_rate: got 2, allowed: a number of 0 or more, below 1"),
    ({"qkv_bias": "maybe"}, r"qkv_bias: got 'maybe', allowed: true or false"),
    ({"reg_tokens": -3}, r"reg_tokens: got -3"),
    ({"mlp_ratio": 1e12}, r"model\.options: got '[\d,]+ parameters', allowed: at most"),
    ({"unknown": 1}, r"model\.options\.unknown: got 1, .*'unknown'"),
    ({"depth": 3, "unknown": 1, "other": 2}, r"model\.options: timm .* makes no .*: TypeError"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_a_wrong_option_is_named_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as refused:
        create(**(TINY | options))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"depths": [1, 1, 1]},
        {"depths": "abc"},
        {"dims": [0, 8, 8, 8]},
        {"drop_rate": -0.1},
        {"token_mixers": "abc"},
    ],
    ids=str,
)
def test_a_wrong_option_of_a_metaformer_is_named_in_one_line(options):
    with pytest.raises(ValueError, match=r"model\.options") as refused:
        create("caformer_s18", **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options", [{"img_size": [16, 16]}, {"patch_size": [4, 8]}, {"init_values": 1e-5}], ids=str
)
def test_a_right_option_is_taken(options):
    create(**(TINY | options))


def test_checks_draw_no_random_number():
    seed_everything(3)
    expected = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=16, **TINY)
    seed_everything(3)
    assert torch.equal(create(**TINY).head.weight, expected.head.weight)
