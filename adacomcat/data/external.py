"""Data sets of timm, by name.

timm's data sets have no common interface: some hold their pixels, some a list of files, some only
give items. Pixels stay in memory, files are decoded when needed, and the rest is read once, item by
item, for labels and content hashes.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_dataset
from torch import Tensor

from adacomcat.checks import require, require_known
from adacomcat.config import DataConfig
from adacomcat.data.content import KnownContents
from adacomcat.data.folders import in_order, refuse_empty
from adacomcat.data.images import DecodedImages, ItemReader, MemoryImages, as_image
from adacomcat.data.source import Part, Source, existing_root, file_part
from adacomcat.files import default_cache

OPTIONS = ("train_split", "test_split", "class_map")
FOLDER = "folder"
TORCH = "torch"
RANDOM_ACCESS = (TORCH, "hfds")
"""timm's families of data sets that can be read in any order, which a shuffled split needs."""


def timm_source(config: DataConfig, name: str) -> Source:
    """A data set of `timm.data.create_dataset`: `folder`, `torch/NAME` or `hfds/NAME`.

    Its splits are `train` and `validation`, or those that the options name. A folder without
    these two folders has no test split. torchvision's data sets (`torch/cifar10`) are downloaded
    where they are missing; without `data.root` they lie in the cache folder.

    Raises:
        ValueError: an unknown name or option, data that is not there, or images without a class.
    """
    family, _, member = name.partition("/")
    sound = name == FOLDER or (family in RANDOM_ACCESS and bool(member))
    require(sound, "data.name", config.name, "timm/folder, timm/torch/NAME, timm/hfds/NAME")
    for key in config.options:
        require_known(key, OPTIONS, "data.options")
    root = None
    if family == TORCH and config.root is None:
        root = default_cache()
    elif family != "hfds" or config.root is not None:
        root = existing_root(config, f"the folder of {name}")
    first, second = (
        _open(config, name, root, config.options.get(f"{part}_split", split))
        for part, split in (("train", "train"), ("test", "validation"))
    )
    if name != FOLDER:
        return _source(config, first, second, root)
    if first.reader.root == second.reader.root:  # no folder a split: timm gives all for both
        second = None
    else:
        maps = [set(dataset.reader.class_to_idx) for dataset in (first, second)]
        different = sorted(maps[0] ^ maps[1])
        allowed = f"the same classes in {first.reader.root} and {second.reader.root}"
        require(not different, "data.root", different, allowed)
    source = _source(config, first, second, root)
    if "class_map" in config.options:
        return source
    for dataset in (first, second):
        if dataset is not None:
            refuse_empty(Path(dataset.reader.root), source.classes)
    return source.relabeled(in_order(source.classes, config), "data.class_order")


def _open(config: DataConfig, name: str, root: Path | None, split: str) -> Any:
    """One split; torchvision's are downloaded only where they are missing."""
    place = None if root is None else str(root)
    torchvisions = name.startswith(f"{TORCH}/")
    options = {} if torchvisions else {"class_map": config.options.get("class_map", "")}
    try:
        try:
            return create_dataset(name, place, split, **options)
        except RuntimeError:
            if not torchvisions:
                raise
            return create_dataset(name, place, split, download=True)
    # timm asserts, and its readers raise what their own libraries raise.
    except Exception as error:
        raise ValueError(
            f"data.root: timm cannot open split {split!r} of {name} in {root}: {error!r}"
        ) from error


def _source(config: DataConfig, first: Any, second: Any | None, root: Path | None) -> Source:
    train = _part(config, first, root)
    test = None if second is None else _part(config, second, root)
    parts = [train] if test is None else [train, test]
    lowest = min(int(part.labels.min(initial=0)) for part in parts)
    require(lowest >= 0, "data.options", f"label {lowest}", "a split whose images have all a class")
    count = 1 + max(int(part.labels.max(initial=-1)) for part in parts)
    reader = getattr(first, "reader", first)
    names = getattr(reader, "classes", None) or list(getattr(reader, "class_to_idx", None) or [])
    if len(names) < count:
        names = range(count)
    return Source(train, test, tuple(str(name) for name in names))


def _part(config: DataConfig, dataset: Any, root: Path | None) -> Part:
    """The images and labels of an opened data set, by the cheapest way it offers."""
    held = _pixels(dataset)
    if held is not None:
        return held
    reader = getattr(dataset, "reader", dataset)  # timm's own __getitem__ skips bad images
    samples = getattr(reader, "samples", None)
    if samples and isinstance(samples[0][0], str | Path):
        return file_part([(str(p), int(label)) for p, label in samples], root or Path())
    names, labels = [], []
    digests = np.empty((len(reader), hashlib.sha256().digest_size), dtype=np.uint8)
    for index, row in enumerate(digests):
        try:
            value, label = reader[index][:2]
            labels.append(int(label))
            image = as_image(value).convert("RGB")
        # Decoders and libraries raise all kinds; a label may be of any type.
        except Exception as error:
            raise ValueError(
                f"data.name: item {index} of {config.name} is not (image, class): {error!r}"
            ) from error
        content = f"{image.size}".encode() + image.tobytes()
        row[:] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        names.append(f"{index} of {config.name}")
    contents = KnownContents(names, digests)
    images = DecodedImages(ItemReader(reader), contents, np.arange(len(names)))
    return Part(images, np.array(labels, dtype=np.int64))


def _pixels(dataset: Any) -> Part | None:
    """Pixels of a data set in memory: N x H x W, N x H x W x C or N x C x H x W, bytes."""
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    pixels = getattr(dataset, "data", None)
    if labels is None or not isinstance(pixels, np.ndarray | Tensor):
        return None
    images = torch.as_tensor(pixels)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        return None
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.shape[2] != images.shape[3]:
        return None
    return Part(MemoryImages(images), np.asarray(labels, dtype=np.int64))
