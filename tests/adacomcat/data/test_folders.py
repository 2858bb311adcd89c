"""The labels of folders of images, against timm's and torchvision's own readers."""

import logging
from pathlib import Path

import numpy as np
import pytest
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

from adacomcat.config import DataConfig
from adacomcat.data import build_splits
from adacomcat.data.datasets import load_source

NUMBERS = tuple(str(number) for number in range(12))
MIXED = ("B", "a10", "a9", "C1", "10", "9")


def labels_by_file(config: DataConfig, part: str) -> dict[str, int]:
    source = load_source(config)
    chosen = source.train if part == "train" else source.test
    assert chosen is not None
    return {chosen.images.name(i): int(label) for i, label in enumerate(chosen.labels)}


@pytest.mark.parametrize("name", ["imagefolder", "timm/folder"])
@pytest.mark.parametrize("classes", [NUMBERS, MIXED, ("bee", "ant")])
def test_labels_are_those_of_timm_by_default(image_folder, name: str, classes) -> None:
    root = image_folder(classes=classes, per_class=2, val=1)
    for part, split in (("train", "train"), ("val", "validation")):
        timms = create_dataset("folder", str(root), split)
        assert timms.reader is not None
        expected = {Path(p).relative_to(root).as_posix(): y for p, y in timms.reader.samples}
        assert labels_by_file(DataConfig(name=name, root=str(root)), part) == expected
    source = load_source(DataConfig(name=name, root=str(root)))
    assert source.classes == tuple(timms.reader.class_to_idx)


@pytest.mark.parametrize("name", ["imagefolder", "timm/folder"])
@pytest.mark.parametrize("classes", [NUMBERS, MIXED])
def test_labels_in_alphabetical_order_are_torchvisions(image_folder, name: str, classes) -> None:
    root = image_folder(classes=classes, per_class=2, val=1)
    expected = {
        Path(p).relative_to(root).as_posix(): y for p, y in ImageFolder(str(root / "train")).samples
    }
    config = DataConfig(name=name, root=str(root), class_order="alphabetical")
    assert labels_by_file(config, "train") == expected


def test_one_line_tells_where_the_orders_differ(image_folder, caplog) -> None:
    root = image_folder(classes=NUMBERS, per_class=2, val=1)
    config = DataConfig(name="imagefolder", root=str(root))
    with caplog.at_level(logging.WARNING, logger="adacomcat"):
        load_source(config)
        load_source(DataConfig(name="imagefolder", root=str(root), label_names=NUMBERS))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "data.class_order natural: label 2 is class '2'; timm (natural) takes '2', torchvision "
        "(alphabetical) '10'"
    )
    caplog.clear()
    plain = image_folder(classes=("n01", "n02"), where="plain")
    load_source(DataConfig(name="imagefolder", root=str(plain)))
    assert not caplog.records


@pytest.mark.parametrize("name", ["imagefolder", "timm/folder"])
def test_names_that_a_model_knows_decide(image_folder, name: str) -> None:
    names = ("wasp", "ant", "bee")
    root = str(image_folder(classes=("ant", "bee", "wasp"), per_class=4))
    config = DataConfig(name=name, root=root, label_names=names)
    for file, label in labels_by_file(config, "train").items():
        assert names[label] == Path(file).parent.name
    splits = build_splits(config)
    assert splits.classes == names
    files = [splits.test.images.name(i) for i in range(len(splits.test))]
    labels = splits.test.labels.tolist()
    assert [Path(file).parent.name for file in files] == [names[label] for label in labels]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ant", "wasp"), r"data.label_names: got .*2 classes, 'wasp'.*allowed: the 2 .*, 'bee'"),
        (("ant",), r"data.label_names: got .*1 classes, 'ant'.*allowed: the 2 .*, 'bee'"),
        (("ant", "bee", "wasp"), r"data.label_names: got .*3 classes, 'wasp'"),
        (("ant", "bee", "bee"), r"data.label_names: got 3 classes, .*'bee', 'bee', allowed: the 2"),
    ],
)
def test_other_names_are_refused(image_folder, names: tuple[str, ...], message: str) -> None:
    config = DataConfig(name="imagefolder", root=str(image_folder()), label_names=names)
    with pytest.raises(ValueError, match=message):
        build_splits(config)


def test_names_also_order_a_data_set_with_labels_of_its_own() -> None:
    names = tuple(reversed(NUMBERS[:10]))
    plain, turned = (load_source(DataConfig(label_names=n)) for n in (None, names))
    np.testing.assert_array_equal(turned.train.labels, 9 - plain.train.labels)
    with pytest.raises(ValueError, match="data.class_order: got 'alphabetical', allowed: natural"):
        load_source(DataConfig(class_order="alphabetical"))
    with pytest.raises(
        ValueError, match="data.class_order: got 'random', allowed: 'natural' or 'alph"
    ):
        DataConfig(class_order="random")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["imagefolder", "timm/folder"])
@pytest.mark.parametrize("parts", [("train",), ("val",), ("train", "val")])
def test_an_empty_class_folder_is_named(image_folder, name: str, parts) -> None:
    """torchvision would count it, timm would not: the labels behind it differ by one."""
    root = image_folder()
    for part in parts:
        (root / part / "aphid").mkdir()
        (root / part / "aphid" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="data.root: got .*aphid"):
        load_source(DataConfig(name=name, root=str(root)))
