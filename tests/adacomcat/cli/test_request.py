"""From flags to the configuration of a trial."""

import hashlib
from pathlib import Path

import timm
import torch

from adacomcat.cli.main import parse
from adacomcat.cli.request import search_config


def config_of(*words):
    return search_config(parse(["search", "--output", "x", *map(str, words)]))


def test_flags_settings_and_recipe(asked, weights, images):
    config = config_of(
        *asked,
        "--seed",
        5,
        "--schedule",
        "fixed",
        "--set",
        "schedule.every=3",
        "--set",
        "search_phase.lr=0.001",
    )
    assert config.seed == 5
    assert config.budget.reduction == 0.5
    assert dict(config.schedule) == {"kind": "fixed", "every": 3}
    assert (config.search_phase.epochs, config.search_phase.batch_size) == (2, 16)
    assert config.search_phase.lr == 0.001 and config.search.batch_size == 8
    assert config.data.root == str(images) and config.runtime.num_workers == 0
    assert config.dense.weights == str(weights) and config.dense.recipe.epochs == 0
    assert config.dense.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    # DeiT's recipe, where nothing else is said.
    assert config.data.auto_augment == "rand-m9-mstd0.5-inc1" and config.data.repeats == 3
    assert config.finetune.lr == 1e-4 and config.finetune.weight_decay == 5e-3
    assert config.model.options["drop_path_rate"] == 0.1 and config.model.options["depth"] == 2


def test_paths_are_absolute(asked, weights, images, monkeypatch):
    monkeypatch.chdir(images.parent)
    at = asked.index("--data")
    config = config_of(*asked[:at], "--data", images.name, *asked[at + 2 :])
    assert config.data.root == str(images)
    monkeypatch.chdir(weights.parent)
    assert config_of(*asked, "--weights", weights.name).dense.weights == str(weights)


def test_the_images_are_what_the_model_was_trained_on(images):
    """Of timm's DeiT and augreg models: ImageNet's mean, and one half."""
    deit, vit = (
        config_of("--model", name, "--data", images, "--weights", "timm")
        for name in ("deit_tiny_patch16_224", "vit_tiny_patch16_384.augreg_in21k_ft_in1k")
    )
    assert deit.data.mean == (0.485, 0.456, 0.406) and deit.data.std == (0.229, 0.224, 0.225)
    assert vit.data.mean == vit.data.std == (0.5, 0.5, 0.5)
    assert (deit.data.image_size, vit.data.image_size) == (224, 384)


def test_the_image_size_is_that_of_the_weights_positions(images, tmp_path):
    sizes = {"embed_dim": 48, "depth": 1, "num_heads": 3}
    flags = [f"--set=model.options.{name}={value}" for name, value in sizes.items()]
    name = "vit_small_patch14_dinov2"
    model = timm.create_model(name, img_size=224, num_classes=10, **sizes)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    asked = ("--model", name, "--data", images, *flags)
    # Of timm's name 518, to which the positions would be interpolated.
    assert config_of(*asked, "--weights", "timm").data.image_size == 518
    assert config_of(*asked, "--weights", path).data.image_size == 224
    assert config_of(*asked, f"--set=dense.weights={path}").data.image_size == 224
    url = (f"--set=dense.sha256={hashlib.sha256(path.read_bytes()).hexdigest()}", "--weights")
    assert config_of(*asked, *url, path.as_uri()).data.image_size == 224
    # What is asked for stands.
    asked += ("--weights", path)
    assert config_of(*asked, "--set=data.image_size=280").data.image_size == 280
    assert config_of(*asked, "--set=model.options.img_size=280").data.image_size == 280


def test_a_workload_takes_flags_too():
    config = config_of("--workload", "digits", "--epochs", 3, "--preset", "upstream")
    assert config.search_phase.epochs == 3 and config.dense.recipe.epochs == 60
    assert config.data.leakage == ("search", "selection")
    with_data = config_of("--workload", "deit_small_imagenet", "--data", "here")
    assert with_data.data.root == str(Path("here").absolute())
    assert with_data.model.name == "deit_small_patch16_224.fb_in1k"
