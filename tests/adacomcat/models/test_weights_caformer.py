"""Weights of CAFormer, in its authors' naming and in timm's."""

import re

import pytest
import timm
import torch

from adacomcat.config import DenseConfig, ModelConfig
from adacomcat.models.registry import create_model
from adacomcat.models.weights import load_dense_weights_
from adacomcat.testing.models import draw_parameters_, tiny_caformer, tiny_vit


def take(model, path, tmp_path, **settings):
    dense = DenseConfig(weights=str(path), **settings)
    load_dense_weights_(model, dense, ModelConfig(), tmp_path / "cache")
    return model


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


RENAMED = (
    (r"^stem\.conv", "downsample_layers.0.conv"),
    (r"^stem\.norm", "downsample_layers.0.post_norm"),
    (r"^stages\.(\d)\.downsample\.norm", r"downsample_layers.\1.pre_norm"),
    (r"^stages\.(\d)\.downsample\.conv", r"downsample_layers.\1.conv"),
    (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
    (r"^head\.norm", "norm"),
    (r"^head\.fc\.", "head."),
)


def original(model):
    """The state dict of a CAFormer as its authors name and shape it: 1 x 1 kernels are linear."""
    state = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        linear = value.ndim == 4 and value.shape[2:] == (1, 1)
        state[name] = value[..., 0, 0] if linear else value
    return state


def test_caformer(tmp_path):
    source, path = tiny_caformer(), tmp_path / "caformer.pth"
    state = original(source)
    assert "stages.2.3.token_mixer.qkv.weight" in state and "head.fc2.weight" in state
    assert state["stages.0.0.mlp.fc1.weight"].ndim == 2
    torch.save(state, path)
    assert same(take(tiny_caformer(seed=1), path, tmp_path), source)
    torch.save({"state_dict": source.state_dict()}, path)
    assert same(take(tiny_caformer(seed=1), path, tmp_path), source)


def test_caformer_as_timm_itself_would_load_it(tmp_path):
    name, path = "caformer_s18", tmp_path / "caformer.pth"
    model = create_model(ModelConfig(name=name), num_classes=10, in_chans=3, image_size=64)
    draw_parameters_(model, 3)
    torch.save(original(model), path)
    overlay = {"state_dict": torch.load(path), "num_classes": 10}
    expected = timm.create_model(name, True, pretrained_cfg_overlay=overlay, num_classes=10)
    assert same(expected, model)
    draw_parameters_(model, 4)
    assert same(take(model, path, tmp_path), expected)


def test_caformer_for_other_classes(tmp_path):
    path = tmp_path / "caformer.pth"
    source, model = tiny_caformer(num_classes=7), tiny_caformer(seed=1)
    torch.save(original(source), path)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="for 7 classes', allowed: weights for 10 .*new_head"):
        take(model, path, tmp_path)
    take(model, path, tmp_path, new_head=True)
    for key, value in model.state_dict().items():
        expected = before if key.startswith("head.fc.fc2.") else source.state_dict()
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"depths": [1, 1, 5, 2]},
            r"has stages\.2\.blocks\.4\.norm1\.weight.*, unknown to the mod",
        ),
        ({"depths": [1, 1, 3, 2]}, r"lacks stages\.2\.blocks\.3\.norm1\.weight, .* and \d+ more"),
        ({"dims": [16, 32, 48, 96]}, r"downsample\.conv\.weight: got \(48, 32, 3, 3\), .*\(64, 32"),
        ({"use_mlp_head": False}, r"has head\.fc\.weight, unknown to the model"),
    ],
)
def test_what_does_not_fit_a_caformer_is_named(tmp_path, options, message):
    path, model = tmp_path / "caformer.pth", tiny_caformer(seed=1)
    torch.save(original(tiny_caformer(**options)), path)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        take(model, path, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_of_another_family_are_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tiny_vit().state_dict(), path)
    with pytest.raises(ValueError, match=r"weights\.pth: .*has .*unknown to the model"):
        take(tiny_caformer(), path, tmp_path)
    torch.save(original(tiny_caformer()), path)
    with pytest.raises(ValueError, match=r"weights\.pth: norm\.weight: got \(96,\), .*\(32,\)"):
        take(tiny_vit(), path, tmp_path)
