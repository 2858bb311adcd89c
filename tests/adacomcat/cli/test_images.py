"""Preprocessing and labels of an evaluation, which are those of the model."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_data_config
from torch.nn import functional as F

import adacomcat

SIZES = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}
NAMES = tuple(str(number) for number in range(12))


@pytest.fixture
def numbered(tmp_path):
    """Folders 0 to 11, which timm and torchvision order differently; val has images of its own."""
    rng = np.random.default_rng(0)
    for part, name in ((part, name) for part in ("train", "val") for name in NAMES):
        folder = tmp_path / "numbered" / part / name
        folder.mkdir(parents=True)
        for i in range(4 if part == "train" else 2):
            pixels = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "numbered"


def drawn(name, classes):
    """A model whose outputs differ from image to image."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, **SIZES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def timms(model, root):
    """Loss and accuracy on val, by timm alone."""
    known = resolve_data_config({"input_size": (3, 64, 64)}, model=model)
    look = create_transform(**known, is_training=False)
    data = create_dataset("folder", str(root), "validation", transform=look)
    images, labels = zip(*(data[i] for i in range(len(data))), strict=True)
    logits, labels = model(torch.stack(images)), torch.tensor(labels)
    return float(F.cross_entropy(logits, labels)), float(
        (logits.argmax(1) == labels).double().mean()
    )


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_384.augreg_in21k_ft_in1k",  # crop_pct 1.0
        "deit_tiny_patch16_224.fb_in1k",  # crop_pct 0.9
    ],
)
def test_weights_and_directory_are_evaluated_as_timm_does(numbered, tmp_path, cli, name):
    model = drawn(name, 12)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    adacomcat.save(model, tmp_path / "model", model_args={"num_classes": 12, **SIZES})
    sizes = [x for k, v in SIZES.items() for x in ("--set", f"model.options.{k}={v}")]
    common = ["--data", numbered, "--workers", 0, "--device", "cpu", "--json"]
    by_weights = cli(
        "eval", "--model", name, "--weights", tmp_path / "weights.pth", *sizes, *common
    )
    for found in (by_weights.json, cli("eval", "--from", tmp_path / "model", *common).json):
        loss, accuracy = timms(model, numbered)
        assert found["loss"] == pytest.approx(loss, abs=1e-5)
        assert found["accuracy"] == pytest.approx(accuracy)


def test_labels_that_a_model_names_are_matched_by_name(numbered, tmp_path, cli):
    """Trained in alphabetical order, evaluated where the default is another."""
    model = drawn("deit_tiny_patch16_224", 12)
    order = sorted(NAMES)
    place = torch.tensor([NAMES.index(name) for name in order])
    loss, accuracy = timms(model, numbered)
    with torch.no_grad():  # the same model, its classifier in the other order
        model.head.weight.copy_(model.head.weight[place])
        model.head.bias.copy_(model.head.bias[place])
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": order}
    adacomcat.save(model, tmp_path / "model", model_args={"num_classes": 12, **SIZES})
    common = ["--from", tmp_path / "model", "--workers", 0, "--device", "cpu"]
    done = cli("eval", "--data", numbered, *common, "--json")
    assert done.json["loss"] == pytest.approx(loss, abs=1e-5)
    assert done.json["accuracy"] == pytest.approx(accuracy)
    assert "class_order" not in done.err
    for part in ("train", "val"):
        (numbered / part / "11").rename(numbered / part / "eleven")
    done = cli("eval", "--data", numbered, *common)
    assert done.status == 2
    assert (
        "data.label_names: got 12 classes, '11', allowed: the 12 classes of the data, 'eleven'"
        in (done.err)
    )


def test_two_orders_are_told_in_one_line(numbered, tmp_path, cli):
    model = drawn("deit_tiny_patch16_224", 12)
    adacomcat.save(model, tmp_path / "model", model_args={"num_classes": 12, **SIZES})
    words = ["eval", "--from", tmp_path / "model", "--data", numbered, "--workers", 0, "--json"]
    done = cli(*words)
    assert done.err.count("data.class_order natural: label 2 is class '2'") == 1
    other = cli(*words, "--set", "data.class_order=alphabetical")
    assert "data.class_order alphabetical: label 2 is class '10'" in other.err
    assert other.json["loss"] != done.json["loss"]


def test_images_that_were_trained_on_are_told(numbered, tmp_path, cli):
    model = drawn("deit_tiny_patch16_224", 12)
    adacomcat.save(model, tmp_path / "model", model_args={"num_classes": 12, **SIZES})
    for name in NAMES[:6]:
        copied = (numbered / "train" / name / "0.png").read_bytes()
        (numbered / "val" / name / "copied.png").write_bytes(copied)
    words = ["eval", "--from", tmp_path / "model", "--data", numbered, "--workers", 0]
    found = cli(*words, "--json").json
    assert set(found["leakage"]) <= {"training", "search", "selection"} and found["leakage"]
    assert "LEAKAGE: " in cli(*words).out
