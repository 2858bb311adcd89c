"""Leakage by content: images of test that are trained, searched or selected on."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from adacomcat.config import DataConfig, leakage_note
from adacomcat.data import Splits, build_splits
from adacomcat.data.datasets import load_source
from adacomcat.data.images import MemoryImages
from adacomcat.data.source import Part, Source

NAMES = ("imagefolder", "timm/folder")


def splits_of(root: Path, name: str = "imagefolder", **changes) -> Splits:
    return build_splits(DataConfig(name=name, root=str(root), image_size=8, **changes))


def put(root: Path, train: str, val: str, how: str) -> None:
    """Put an image of train into val, under another name."""
    source, target = root / "train" / train, root / "val" / val
    if how == "copy":
        shutil.copy(source, target)
    elif how == "hard link":
        os.link(source, target)
    else:
        target.symlink_to(source)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["link", "relative link", "copy", "renamed copy", "more"])
def test_a_val_that_is_train_is_refused(image_folder, name: str, how: str) -> None:
    root = image_folder()
    shutil.rmtree(root / "val")
    if how.endswith("link"):
        target = root / "train" if how == "link" else Path("train")
        (root / "val").symlink_to(target, target_is_directory=True)
    else:
        shutil.copytree(root / "train", root / "val")
    if how == "renamed copy":
        for path in list((root / "val").rglob("*.png")):
            path.rename(path.with_name(f"x{path.name}"))
    if how == "more":  # all training images, and one of its own
        path = root / "val" / "ant" / "new.png"
        shutil.copy(root / "train" / "ant" / "0.png", path)
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"^data: got .*'val/ant/.*in train and in test, as all"):
        splits_of(root, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["copy", "hard link", "link"])
def test_a_single_image_is_flagged_and_named(image_folder, caplog, name: str, how: str) -> None:
    root = image_folder()
    plain = splits_of(root, name)
    assert plain.leakage == () and set(plain.seen.values()) == {0}
    position = int(plain.train.indices[0])
    trained = load_source(DataConfig(name=name, root=str(root))).train.images.name(position)
    put(root, trained.removeprefix("train/"), "bee/zzz.png", how)
    with caplog.at_level(logging.WARNING, logger="adacomcat"):
        splits = splits_of(root, name)
    assert splits.leakage == ("training",)
    assert splits.seen == {"training": 1, "search": 0, "selection": 0}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "1 of 7 images of the test split are in the train split too, byte for byte: "
        "val/bee/zzz.png ..."
    )
    note = "LEAKAGE: the training saw the images that are reported on"
    assert leakage_note(splits.leakage) == note


def test_images_of_the_search_and_of_selection_are_told_apart(image_folder) -> None:
    root = image_folder()
    plain = splits_of(root)
    for name in ("search", "val"):
        split = getattr(plain, name)
        for i in range(len(split)):
            put(root, split.images.name(i).removeprefix("train/"), f"bee/{name}{i}.png", "copy")
    splits = splits_of(root)
    assert splits.leakage == ("search", "selection")
    assert splits.seen["search"] == len(plain.search) and splits.seen["training"] == 0


def test_what_the_settings_leak_is_counted_too(image_folder) -> None:
    splits = splits_of(image_folder(), search_from="test", val_from="test")
    assert splits.leakage == ("search", "selection")
    assert splits.seen == {"training": 0, "search": 6, "selection": 6}


def test_pictures_twice_in_one_source_are_found_across_its_cut(monkeypatch) -> None:
    """Where test is cut off the same images, a picture with two indices may be on both sides."""
    digits = load_source(DataConfig()).train
    assert isinstance(digits.images, MemoryImages)
    assert build_splits(DataConfig()).leakage == ()
    pixels = digits.images.pixels.clone()
    plain = build_splits(DataConfig())
    tested, trained = int(plain.test.indices[5]), int(plain.train.indices[7])
    pixels[tested] = pixels[trained]
    doubled = Source(Part(MemoryImages(pixels), digits.labels), None, tuple("0123456789"))
    monkeypatch.setattr("adacomcat.data.splits.load_source", lambda config: doubled)
    splits = build_splits(DataConfig())
    assert splits.leakage == ("training",) and splits.seen["training"] == 1
