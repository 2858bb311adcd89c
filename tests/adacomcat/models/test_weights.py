import argparse
import os

import pytest
import timm
import torch
from safetensors.torch import save_file

from adacomcat.config import DataConfig, DenseConfig, ModelConfig, PhaseConfig, TrialConfig
from adacomcat.data import build_splits
from adacomcat.files import sha256_file
from adacomcat.models.registry import create_model
from adacomcat.models.weights import load_dense_weights_, weights_identity
from adacomcat.testing.models import draw_parameters_, tiny_images, tiny_vit
from adacomcat.training import dense_model
from adacomcat.training.dense import build_dense, dense_key, is_cached

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 4}
PLAIN = "vit_tiny_patch16_224"
FAMILIES = (PLAIN, "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224")


def build(name=PLAIN, classes=10, side=16, channels=3, **options):
    config = ModelConfig(name=name, options=TINY | options)
    model = create_model(config, num_classes=classes, in_chans=channels, image_size=side)
    draw_parameters_(model, 1)
    return model.eval()


def take(model, path, tmp_path, name=PLAIN, **settings):
    dense = DenseConfig(weights=str(path), **settings)
    load_dense_weights_(model, dense, ModelConfig(name=name), tmp_path / "cache")
    return model


def as_timm_reads(model, name, path, **options):
    """The independent reference: timm's own loading of a file."""
    state = torch.load(path, weights_only=False)
    overlay = {"state_dict": state.get("model", state), "num_classes": model.num_classes}
    sizes = {"img_size": 16, "num_classes": model.num_classes} | TINY | options
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **sizes).eval()


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


WRAPPINGS = {
    "DeiT's": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-4), "epoch": 3},
    "state_dict": lambda s: {"state_dict": s, "arch": "deit"},
    "bare": lambda s: s,
    "module.": lambda s: {"model": {f"module.{key}": value for key, value in s.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_file_of_weights_is_loaded(tmp_path, wrapping):
    source, path = tiny_vit(), tmp_path / "weights.pth"
    torch.save(WRAPPINGS[wrapping](source.state_dict()), path)
    assert same(take(build(), path, tmp_path), source)


@pytest.mark.parametrize("name", FAMILIES)
def test_as_timm_itself_would_load_it(tmp_path, name):
    source, path = tiny_vit(name), tmp_path / "weights.pth"
    state = source.state_dict()
    if name.startswith("deit3"):
        # DeiT III's own files name the layer scale otherwise.
        state = {
            k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
            for k, v in state.items()
        }
        assert "blocks.0.gamma_1" in state
    torch.save({"model": state}, path)
    loaded = take(build(name), path, tmp_path, name)
    assert same(loaded, as_timm_reads(loaded, name, path)) and same(loaded, source)


def test_mae_finetuned(tmp_path):
    """As `mae_finetuned_vit_*.pth`: the norm after the mean alone, named fc_norm."""
    source, path = tiny_vit(global_pool="avg"), tmp_path / "mae_finetuned.pth"
    assert {"fc_norm.weight", "cls_token"} < source.state_dict().keys()
    torch.save({"model": source.state_dict()}, path)
    name = "vit_base_patch16_224.mae"
    loaded = take(build(name, global_pool="avg"), path, tmp_path, name)
    assert same(loaded, source)
    assert same(loaded, as_timm_reads(loaded, name, path, global_pool="avg"))
    assert torch.equal(loaded(tiny_images(2)), source(tiny_images(2)))
    lacks = r"lacks norm\.weight, norm\.bias; has fc_norm\.weight, fc_norm\.bias, unknown"
    with pytest.raises(ValueError, match=lacks):
        take(build(name), path, tmp_path, name)


def test_positions_are_interpolated_to_another_size_as_by_timm(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": tiny_vit().state_dict()}, path)
    loaded = take(build(side=24), path, tmp_path)
    # timm's own loading goes by the size in the overlay, which is that of the file.
    assert same(loaded, as_timm_reads(loaded, PLAIN, path, img_size=24))
    assert not torch.equal(loaded.pos_embed, build(side=24).pos_embed)


def test_safetensors(tmp_path):
    source, path = tiny_vit(), tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    assert same(take(build(), path, tmp_path), source)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"weights\.safetensors: no safetensors file"):
        take(build(), path, tmp_path)


# Other classes.


@pytest.mark.parametrize("name", FAMILIES[:2])
def test_other_classes_want_a_new_head_that_is_asked_for(tmp_path, name):
    source, path = tiny_vit(name), tmp_path / "weights.pth"
    torch.save({"model": source.state_dict()}, path)
    model = build(name, classes=3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="for 10 classes', allowed: weights for 3 .*new_h"):
        take(model, path, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    take(model, path, tmp_path, new_head=True)
    for key, value in model.state_dict().items():
        expected = before if key.startswith("head") else source.state_dict()
        assert torch.equal(value, expected[key]), key


def test_a_head_for_the_same_classes_is_kept(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tiny_vit().state_dict(), path)
    assert same(take(build(), path, tmp_path, new_head=True), tiny_vit())


# Weights of another model.


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ({}, {"depth": 3}, r"weights\.pth: lacks blocks\.2\.norm1\.weight, .* and 7 more"),
        ({"depth": 3}, {}, r"weights\.pth: has blocks\.2\.norm1\.weight, .*unknown to the model"),
        (
            {"embed_dim": 16},
            {},
            r"patch_embed.*got \(16, 3, 4, 4\), .*shape \(32, 3, 4, 4\)",
        ),
        ({"mlp_ratio": 2}, {}, r"fc1\.weight: got \(64, 32\), allowed: shape \(128, 32\)"),
        ({"qkv_bias": False}, {}, r"lacks blocks\.0\.attn\.qkv\.bias"),
        (
            {"patch_size": 8},
            {},
            r"proj\.weight: got \(32, 3, 8, 8\), .*shape \(32, 3, 4, 4\)",
        ),
        ({}, {"channels": 1}, r"got \(32, 3, 4, 4\), allowed: shape \(32, 1, 4, 4\)"),
        ({"name": FAMILIES[1]}, {}, r"pos_embed: got \(1, 18, 32\)|has dist_token"),
        ({}, {"name": FAMILIES[1]}, r"pos_embed: got \(1, 17, 32\)|lacks .*dist_token"),
        ({"init_values": 0.1}, {}, r"has blocks\.0\.ls1\.gamma"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, found, wanted, message):
    path = tmp_path / "weights.pth"
    torch.save({"model": tiny_vit(**found).state_dict()}, path)
    model = build(**wanted)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        take(model, path, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], {"model": {"a": 1}}])
def test_a_file_without_weights_is_named(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights\.pth: got .*allowed: tensors, under model or"):
        take(build(), path, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"dense\.weights: got '.*nowhere\.pth', allowed: a file"):
        take(build(), tmp_path / "nowhere.pth", tmp_path)


# Hashes and URLs.


def test_another_hash_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tiny_vit().state_dict(), path)
    digest = sha256_file(path)
    assert same(take(build(), path, tmp_path, sha256=digest), tiny_vit())
    with pytest.raises(ValueError, match=rf"dense\.sha256: got '0+', allowed: {digest}, the SHA-2"):
        take(build(), path, tmp_path, sha256="0" * 64)


def test_a_url_is_downloaded_once(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": tiny_vit().state_dict()}, path)
    digest = sha256_file(path)
    assert same(take(build(), path.as_uri(), tmp_path, sha256=digest), tiny_vit())
    path.unlink()
    assert same(take(build(), path.as_uri(), tmp_path, sha256=digest), tiny_vit())
    (kept,) = (tmp_path / "cache" / "weights").iterdir()
    kept.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"dense.sha256: got '{digest}', allowed: .*{kept.name}"):
        take(build(), path.as_uri(), tmp_path, sha256=digest)


def test_a_url_with_another_hash_leaves_nothing(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tiny_vit().state_dict(), path)
    digest = sha256_file(path)
    with pytest.raises(
        ValueError, match=rf"dense\.sha256: got '0+', allowed: {digest}, .*file:///"
    ):
        take(build(), path.as_uri(), tmp_path, sha256="0" * 64)
    assert not list((tmp_path / "cache" / "weights").iterdir())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///no/such/weights.pth", r"file:///no/such/weights\.pth cannot be downloaded"),
        (
            "https://127.0.0.1:9/w.pth",
            r"https://127\.0\.0\.1:9/w\.pth cannot be downloaded: .*ref",
        ),
        ("ftp://example.org/w.pth", "got 'ftp://example.org/w.pth', allowed: a URL of https or"),
    ],
)
def test_what_cannot_be_downloaded_is_named(tmp_path, url, message):
    with pytest.raises(ValueError, match=rf"dense\.weights: {message}"):
        take(build(), url, tmp_path, sha256="0" * 64)


# timm's tags.


def timm_config(path, **overlay):
    """A small model of timm whose weights are a file, in the place of the hub."""
    options = {"pretrained_cfg_overlay": {"file": str(path), "num_classes": 1000} | overlay}
    return ModelConfig(name="test_vit.r160_in1k", options=options)


def test_a_tag_of_timm(tmp_path):
    source, path = timm.create_model("test_vit"), tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    config, dense = timm_config(path), DenseConfig(weights="timm", new_head=True)
    side = source.patch_embed.img_size[0]
    model = create_model(config, num_classes=1000, in_chans=3, image_size=side)
    load_dense_weights_(model, DenseConfig(weights="timm"), config, tmp_path)
    assert same(model, source)
    assert "pretrained_cfg_overlay" not in model.model_args
    model = create_model(config, num_classes=5, in_chans=3, image_size=side)
    with pytest.raises(ValueError, match="r160_in1k, for 1000 classes.*weights for 5 classes"):
        load_dense_weights_(model, DenseConfig(weights="timm"), config, tmp_path)
    load_dense_weights_(model, dense, config, tmp_path)
    assert torch.equal(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


def test_a_tag_that_cannot_be_downloaded_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = ModelConfig(name="test_vit.r160_in1k")
    model = create_model(config, num_classes=1000, in_chans=3, image_size=160)
    with pytest.raises(ValueError) as refused:
        load_dense_weights_(model, DenseConfig(weights="timm"), config, tmp_path)
    text = str(refused.value)
    assert text.startswith("dense.weights: the weights of test_vit.r160_in1k are not on this mach")
    assert "\n" not in text


def test_a_model_without_weights_at_timm_is_named(tmp_path):
    config = ModelConfig(name="vit_small_patch16_36x1_224")
    with torch.device("meta"):
        model = create_model(config, num_classes=10, in_chans=3, image_size=224)
    with pytest.raises(ValueError, match=r"model\.name: got 'vit_small_patch16_36x1_224'"):
        load_dense_weights_(model, DenseConfig(weights="timm"), config, tmp_path)


# The workload's dense model.


@pytest.fixture
def config():
    return TrialConfig(
        data=DataConfig(name="synthetic", options={"images": 120, "image_size": 16}),
        model=ModelConfig(options=TINY),
        dense=DenseConfig(recipe=PhaseConfig(epochs=1, batch_size=16)),
    )


@pytest.fixture
def splits(config):
    return build_splits(config.data)


def given(config, splits, path, epochs=0, **settings):
    """The configuration with weights in a file, and those weights."""
    source = build_dense(config, splits)
    draw_parameters_(source, 5)
    torch.save({"model": source.state_dict()}, path)
    recipe = config.dense.recipe.replace(epochs=epochs)
    dense = DenseConfig(weights=str(path), recipe=recipe, **settings)
    return config.replace(dense=dense), source


def test_given_weights_are_read_and_not_cached(config, splits, tmp_path):
    config, source = given(config, splits, tmp_path / "weights.pth")
    assert is_cached(config, splits, tmp_path / "cache")
    model = dense_model(config, splits, tmp_path / "cache", progress=pytest.fail)
    assert same(model, source) and not model.training
    assert not (tmp_path / "cache").exists()


def test_given_weights_are_trained_on_and_cached(config, splits, tmp_path):
    config, source = given(config, splits, tmp_path / "weights.pth", epochs=1)
    assert not is_cached(config, splits, tmp_path / "cache")
    rows = []
    model = dense_model(config, splits, tmp_path / "cache", progress=rows.append)
    assert len(rows) == 1 and not same(model, source)
    # One small step away from the weights that were given, not from random ones.
    assert (model.blocks[0].attn.qkv.weight - source.blocks[0].attn.qkv.weight).abs().max() < 0.1
    assert is_cached(config, splits, tmp_path / "cache")
    again = dense_model(config, splits, tmp_path / "cache", progress=pytest.fail)
    assert same(again, model)


def test_the_key_follows_the_content_of_the_file(config, splits, tmp_path):
    one, _ = given(config, splits, tmp_path / "one.pth", epochs=1)
    os.link(tmp_path / "one.pth", tmp_path / "two.pth")
    digest = sha256_file(tmp_path / "one.pth")
    two = one.replace(dense=one.dense.replace(weights=str(tmp_path / "two.pth"), sha256=digest))
    key = dense_key(one, splits)
    assert dense_key(two, splits) == key != dense_key(config, splits)
    assert weights_identity(one.dense) == digest
    (tmp_path / "one.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match=rf"dense\.sha256: got '{digest}'"):
        dense_key(two, splits)
    os.unlink(tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"dense\.weights: got '.*two\.pth', allowed: a file"):
        dense_key(two, splits)


def test_an_image_that_patches_do_not_divide_is_named():
    with pytest.raises(ValueError, match=r"data\.image_size: got 40, allowed: a multiple of 16, "):
        create_model(ModelConfig(), num_classes=10, in_chans=3, image_size=40)
