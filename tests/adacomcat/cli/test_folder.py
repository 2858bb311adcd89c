import pytest

from adacomcat.cli import folder
from adacomcat.cli.main import parse
from adacomcat.cli.request import search_config


def config_of(*words):
    return search_config(parse(["search", "--output", "x", *map(str, words)]))


@pytest.mark.parametrize(
    ("model", "classes", "space"),
    [
        ("deit_small_patch16_224", 1000, "paper"),
        ("deit_small_patch16_224", 20, "fractions"),
        ("deit3_medium_patch16_224", 1000, "fractions"),
    ],
)
def test_published_menus_where_there_are_any(tmp_path, model, classes, space):
    for label in range(classes):
        (tmp_path / "train" / f"{label:04d}").mkdir(parents=True)
    config = config_of("--model", model, "--data", tmp_path, "--weights", "timm")
    assert config.method["space"] == space


def test_a_large_folder_is_cut_as_imagenet_is(images, monkeypatch):
    words = ["--model", "deit_tiny_patch16_224", "--data", images, "--weights", "timm"]
    small = config_of(*words).data
    monkeypatch.setattr(folder, "LARGE", 80)
    large = config_of(*words).data
    assert (small.search_images, small.val_fraction) == (None, 0.10)
    assert (large.search_images, large.val_fraction) == (50_000, 0.01)


def test_base_has_its_own_numbers(images):
    words = ["--data", images, "--weights", "timm"]
    base = config_of("--model", "deit_base_patch16_224", *words)
    assert (base.search_phase.batch_size, base.search.batch_size) == (320, 16)
    assert base.budget.reduction == 0.6 and base.finetune.min_lr == 1e-6
