"""Folders of images: one folder for each split, with one folder for each class.

The label of an image is the place of its class among the classes. timm sorts their names naturally
and without regard to case (`9` before `10`), torchvision by code points (`10` before `9`).
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from timm.utils import natural_key
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from adacomcat.checks import require
from adacomcat.config import DataConfig
from adacomcat.data.source import Part, Source, existing_root, file_part, read_options

LOGGER = logging.getLogger("adacomcat")
EVERY_CLASS = f"at least one image ({', '.join(IMG_EXTENSIONS)}) in every class"


def image_folder(config: DataConfig) -> Source:
    """`root/train/CLASS/*` and `root/val/CLASS/*`; val is the test split (ImageNet's layout)."""
    read_options(config, {})
    root = existing_root(config, "a folder with train/ and val/")
    folders = {name: root / name for name in ("train", "val")}
    found = {}
    for name, folder in folders.items():
        allowed = f"a folder with train/ and val/, of which {name}/ is missing"
        require(folder.is_dir(), "data.root", str(root), allowed)
        found[name] = {entry.name for entry in folder.iterdir() if entry.is_dir()}
        require(bool(found[name]), "data.root", str(folder), "a folder with one folder a class")
    for name, other in (("val", "train"), ("train", "val")):
        extra = sorted(found[name] - found[other])
        missing = f"class {extra[0]!r} of {folders[name]} is missing from {other}/" if extra else ""
        require(not extra, "data.root", missing, "the same classes in train/ and val/")
    classes = in_order(found["train"], config)
    train, test = (_folder_part(config, root, folders[name], classes) for name in folders)
    return Source(train, test, classes)


def in_order(names: Iterable[str], config: DataConfig) -> tuple[str, ...]:
    """Names of classes in the order that `config.class_order` states.

    Where the two orders differ, and the model does not name its labels, the log says so.
    """
    orders = {"natural": tuple(sorted(sorted(names), key=natural_key))}
    orders["alphabetical"] = tuple(sorted(orders["natural"]))
    chosen = orders[config.class_order]
    if config.label_names is None and orders["natural"] != orders["alphabetical"]:
        label = next(
            i for i, pair in enumerate(zip(*orders.values(), strict=True)) if len({*pair}) > 1
        )
        natural, alphabetical = (orders[name][label] for name in ("natural", "alphabetical"))
        LOGGER.warning(
            "data.class_order %s: label %d is class %r; timm (natural) takes %r, torchvision "
            "(alphabetical) %r",
            *(config.class_order, label, chosen[label], natural, alphabetical),
        )
    return chosen


def refuse_empty(folder: Path, classes: Sequence[str]) -> None:
    """Raise for a folder of a class without images, which would count in other tools' labels.

    Raises:
        ValueError: names the folder.
    """
    for entry in sorted(folder.iterdir()):
        known = (
            not entry.is_dir() or entry.name in classes or any(p.is_dir() for p in entry.iterdir())
        )
        require(known, "data.root", str(entry), EVERY_CLASS)


def _folder_part(config: DataConfig, root: Path, folder: Path, classes: tuple[str, ...]) -> Part:
    index = {name: label for label, name in enumerate(classes)}
    samples = make_dataset(folder, index, IMG_EXTENSIONS, allow_empty=True)
    labels = {label for _, label in samples}
    for label, name in enumerate(classes):
        require(label in labels, "data.root", str(folder / name), EVERY_CLASS)
    return file_part(samples, root)
