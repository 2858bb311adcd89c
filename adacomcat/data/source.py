"""Data sets before any split is cut: images with labels."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adacomcat.checks import require, require_known
from adacomcat.config import DataConfig
from adacomcat.data.content import STAT, FileContents, stat_of
from adacomcat.data.images import DecodedImages, FileReader, Images, pack

SHOWN = 3
"""Number of names that a message lists."""


@dataclass(frozen=True, eq=False)
class Part:
    """Images with their labels.

    Attributes:
        images: N images.
        labels: N, int64, an index into the classes of the source.
    """

    images: Images
    labels: np.ndarray

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels), (len(self.images), len(self.labels))

    def select(self, indices: np.ndarray) -> "Part":
        """The images at `indices`, in that order."""
        return Part(self.images.select(indices), self.labels[indices])


@dataclass(frozen=True, eq=False)
class Source:
    """A data set.

    Attributes:
        train: images of train, search and val, and of test too where `test` is None.
        test: the set's own test split.
        classes: names, by label.
    """

    train: Part
    test: Part | None
    classes: tuple[str, ...]

    def relabeled(self, names: Sequence[str], field: str) -> "Source":
        """The same images with labels that count through `names`.

        Args:
            names: the classes' names in another order.
            field: the setting that gives them, for the message.

        Raises:
            ValueError: not the names of these classes, each once.
        """
        if tuple(names) == self.classes:
            return self
        missing = [name for name in self.classes if name not in set(names)]
        foreign = [name for name in names if name not in set(self.classes)]
        if missing or foreign or len(names) != len(self.classes):
            raise ValueError(
                f"{field}: got {len(names)} classes, {_some(foreign or list(names))}, allowed: the "
                f"{len(self.classes)} classes of the data, {_some(missing or list(self.classes))}"
            )
        label_of = {name: label for label, name in enumerate(names)}
        new = np.array([label_of[name] for name in self.classes], dtype=np.int64)
        train, test = (
            None if part is None else Part(part.images, new[part.labels])
            for part in (self.train, self.test)
        )
        assert train is not None
        return Source(train, test, tuple(names))


def read_options(config: DataConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's own options, over their defaults.

    Raises:
        ValueError: an unknown option, or a value of another type than the default's.
    """
    if not defaults:
        allowed = f"nothing: {config.name} has no options"
        require(not config.options, "data.options", dict(config.options), allowed)
    for key, value in config.options.items():
        require_known(key, defaults, "data.options")
        kind = type(defaults[key])
        kinds = (int, float) if kind is float else kind
        sound = kind is type(None) or (isinstance(value, kinds) and not isinstance(value, bool))
        require(sound, f"data.options.{key}", value, f"a value of type {kind.__name__}")
    return {**defaults, **config.options}


def existing_root(config: DataConfig, allowed: str) -> Path:
    """`config.root` as a folder.

    Raises:
        ValueError: it is not given, or is no folder.
    """
    require(config.root is not None, "data.root", None, allowed)
    try:
        root = Path(str(config.root)).expanduser()
    except RuntimeError as error:  # `~` of a user without a home folder
        raise ValueError(f"data.root: got {config.root!r}, allowed: a folder; {error}") from error
    require(root.is_dir(), "data.root", str(root), f"{allowed}; this folder does not exist")
    return root


def file_part(samples: Sequence[tuple[str, int]], root: Path) -> Part:
    """Image files with labels, decoded when they are needed.

    Args:
        samples: path and label of each image.
        root: folder that the names of images in messages are relative to.

    Raises:
        ValueError: a file is missing or empty.
    """
    names, stats = [], np.empty((len(samples), len(STAT)), dtype=np.uint64)
    prefix = f"{root}{os.sep}"
    for row, (path, _) in zip(stats, samples, strict=True):
        try:
            found = os.stat(path)
        except OSError as error:
            raise ValueError(f"data.root: cannot read the image {path}: {error}") from error
        require(found.st_size > 0, "data.root", path, "image files that are not empty")
        row[:] = stat_of(found)
        # The short way for millions of files; os.path.relpath for those elsewhere.
        inside = path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, root)
        names.append(inside.replace(os.sep, "/"))
    paths = pack([path for path, _ in samples])
    contents = FileContents(paths, pack(names), stats)
    images = DecodedImages(FileReader(paths), contents, np.arange(len(names)))
    return Part(images, np.array([label for _, label in samples], dtype=np.int64))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"{shown} ..." if len(names) > SHOWN else shown
