"""What timm's users do with a model, done with loaded models; timm's dense model is the reference.

At full rank a factorized model is the dense one, so that all that timm computes has to be equal.
"""

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

import adacomcat
from adacomcat.config import ModelConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.linear import LowRankLinear
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.models.registry import create_model
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_, tiny_images

SIZES = {"patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4}
NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")


def build(name):
    model = create_model(
        ModelConfig(name=name, options=SIZES), num_classes=10, in_chans=3, image_size=16
    )
    draw_parameters_(model, 0)
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "label_names": list("abcdefghij"),
    }
    return model.eval()


def loaded(name, folder, share=1):
    """A model with every site factorized, heads too, saved and read back."""
    model = build(name)
    method = LowRank(model, LowRankConfig())
    ranks = {s.name: max(1, s.full // share // s.groups) * s.groups for s in method.sites}
    method.commit_(Plan("lowrank", ranks))
    adacomcat.save(model, folder, plan=method.plan)
    return adacomcat.load(folder)


@pytest.fixture(params=NAMES)
def pair(request, tmp_path):
    """(timm's dense model, the same out of a directory, factorized at full rank)."""
    return build(request.param), loaded(request.param, tmp_path / "model")


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_features_and_classifier(pair):
    dense, model = pair
    assert isinstance(model.head, LowRankLinear)
    images = tiny_images(3)
    features = model.forward_features(images)
    same(features, dense.forward_features(images))
    same(model.forward_head(features), dense(images))
    expected = dense.forward_head(dense.forward_features(images), pre_logits=True)
    same(model.forward_head(features, pre_logits=True), expected)


@torch.no_grad()
def test_intermediate_features(pair):
    dense, model = pair
    images = tiny_images(2)
    for options in ({}, {"indices": [0, 2], "norm": True, "return_prefix_tokens": True}):
        same(
            model.forward_intermediates(images, **options),
            dense.forward_intermediates(images, **options),
        )
    for options in ({"n": 2}, {"n": [1], "reshape": True, "norm": True}):
        found = model.get_intermediate_layers(images, **options)
        same(found, dense.get_intermediate_layers(images, **options))
    maps = model.forward_intermediates(images, indices=1, intermediates_only=True)
    assert [tuple(each.shape) for each in maps] == [(2, 32, 4, 4)]


@torch.no_grad()
def test_blocks_that_are_not_needed_can_go(pair):
    dense, model = pair
    for each in pair:
        each.prune_intermediate_layers([1], prune_head=True)
    assert len(model.blocks) == 2
    same(model.forward_features(tiny_images(2)), dense.forward_features(tiny_images(2)))


def test_the_data_of_a_model(pair):
    _, model = pair
    assert resolve_model_data_config(model) == {
        "input_size": (3, 16, 16),
        "interpolation": "bilinear",
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "crop_pct": 0.8,
        "crop_mode": "center",
    }
    assert model.default_cfg == model.pretrained_cfg


@pytest.mark.parametrize("classes", [5, 0])
def test_another_classifier(pair, classes, tmp_path):
    dense, model = pair
    images = tiny_images(3)
    heads = ("head", "head_dist") if hasattr(model, "head_dist") else ("head",)
    for each in pair:
        each.reset_classifier(classes)
    for name in heads:
        assert type(getattr(model, name)) is (nn.Linear if classes else nn.Identity)
        getattr(dense, name).load_state_dict(getattr(model, name).state_dict())
    with torch.no_grad():
        expected = dense(images)
        assert model.num_classes == classes and expected.shape == (3, classes or 32)
        same(model(images), expected)
    # It can be trained, saved and read again, and its names are not those of other classes.
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.blocks.parameters())
    adacomcat.save(model, tmp_path / "again")
    again = adacomcat.load(tmp_path / "again")
    with torch.no_grad():
        same(again(images), expected)
    assert "label_names" not in again.pretrained_cfg
    assert again.pretrained_cfg["num_classes"] == classes


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_model_has_the_same_interface(name, tmp_path):
    model = loaded(name, tmp_path, share=2)
    images = tiny_images(2)
    with torch.no_grad():
        logits = model(images)
        same(model.forward_head(model.forward_features(images)), logits)
        final, maps = model.forward_intermediates(images)
        same(model.forward_head(final), logits)
    assert len(maps) == 3
    assert model.pretrained_cfg["label_names"] == tuple("abcdefghij")
    assert type(model) is type(timm.create_model(name, **SIZES, img_size=16))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
