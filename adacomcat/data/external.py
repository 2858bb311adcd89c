"""Data sets of torchvision and timm, by name.

Neither library has one interface for its data sets: some hold their pixels, some a list of files,
some only give items. Pixels stay in memory, files are decoded when needed, and of the rest each
item is read once to learn its label and what identifies it.
"""

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets import VisionDataset

from adacomcat.checks import require, require_known
from adacomcat.config import DataConfig
from adacomcat.data.datasets import Part, Source, cache_folder, crop_share, existing_root, file_part
from adacomcat.data.images import DecodedImages, ItemReader, MemoryImages, as_image, pack

OWN_OPTIONS = ("crop_pct", "train_split", "test_split")
HANDLED = ("self", "root", "train", "transform", "target_transform", "transforms", "download")
RANDOM_ACCESS = ("torch", "hfds")
"""timm's families of data sets that can be read in any order, which a shuffled split needs."""


def torchvision_source(config: DataConfig, name: str) -> Source:
    """A class of `torchvision.datasets`, whose constructor takes `config.options`.

    The test split is `train=False`, or `split="test"`, else `split="val"`; the options
    `train_split` and `test_split` name others. A class that takes neither has no test split.

    Raises:
        ValueError: an unknown class or option, data that is not there and cannot be downloaded,
            a data set that does not give one class an image.
    """
    # `datasets` exports functions and bases too; only data sets can be asked for.
    exported = {key: getattr(datasets, key) for key in datasets.__all__}
    known = [k for k, v in exported.items() if inspect.isclass(v) and issubclass(v, VisionDataset)]
    require_known(name, known, "data.name (after torchvision/)")
    cls = exported[name]
    parameters = _parameters(cls)
    selector = next((key for key in ("train", "split") if key in parameters), None)
    for key in config.options:
        taken = [p for p in parameters if p not in HANDLED and p != selector]
        require_known(key, [*taken, *OWN_OPTIONS], "data.options")
    arguments = {k: v for k, v in config.options.items() if k not in OWN_OPTIONS}
    root = _root(config, parameters)
    if root is not None:
        arguments["root"] = str(root)
    if selector is None:
        return _source(config, _construct(cls, arguments, parameters), None, root)
    if selector == "train":
        first, second = (
            _construct(cls, {**arguments, "train": train}, parameters) for train in (True, False)
        )
        return _source(config, first, second, root)
    train_split = config.options.get("train_split", "train")
    first = _construct(cls, {**arguments, "split": train_split}, parameters)
    named = config.options.get("test_split")
    errors = []
    for split in ("test", "val") if named is None else (named,):
        try:
            second = _construct(cls, {**arguments, "split": split}, parameters)
        except ValueError as error:
            errors.append(str(error))
        else:
            return _source(config, first, second, root)
    raise ValueError(f"data.options.test_split: {name} opened none: {'; '.join(errors)}")


def timm_source(config: DataConfig, name: str) -> Source:
    """A data set of `timm.data.create_dataset`: `folder`, `torch/NAME` or `hfds/NAME`.

    Its splits are `train` and `validation`, or those that the options name. A folder without
    these two folders has no test split.

    Raises:
        ValueError: an unknown name or option, data that is not there.
    """
    from timm.data import create_dataset

    family, _, member = name.partition("/")
    sound = name == "folder" or (family in RANDOM_ACCESS and bool(member))
    require(sound, "data.name", config.name, "timm/folder, timm/torch/NAME, timm/hfds/NAME")
    for key in config.options:
        require_known(key, [*OWN_OPTIONS, "class_map"], "data.options")
    root = None
    if family != "hfds" or config.root is not None:
        root = existing_root(config, f"the folder of {name}")
    opened = []
    for option, split in (("train_split", "train"), ("test_split", "validation")):
        split = config.options.get(option, split)
        class_map = config.options.get("class_map", "")
        extra = {"class_map": class_map} if family != "torch" else {}
        try:
            opened.append(create_dataset(name, None if root is None else str(root), split, **extra))
        # timm asserts, and its readers raise what their own libraries raise.
        except Exception as error:
            raise ValueError(
                f"data.root: timm cannot open split {split!r} of {name} in {root}: {error!r}"
            ) from error
    first, second = opened
    if name == "folder":
        if first.reader.root == second.reader.root:  # no folder a split: timm gives all for both
            return _source(config, first, None, root)
        maps = [set(dataset.reader.class_to_idx) for dataset in opened]
        different = sorted(maps[0] ^ maps[1])
        allowed = f"the same classes in {first.reader.root} and {second.reader.root}"
        require(not different, "data.root", different, allowed)
    return _source(config, first, second, root)


def _parameters(cls: type) -> list[str]:
    """Names that the constructor takes, its parents' too where it passes the rest on."""
    names: list[str] = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        found = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names += [p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            break
    return names


def _root(config: DataConfig, parameters: Sequence[str]) -> Path | None:
    if "root" not in parameters:
        require(config.root is None, "data.root", config.root, f"None: {config.name} has no folder")
        return None
    if config.root is not None:
        return existing_root(config, f"the folder of {config.name}")
    cache_folder().mkdir(parents=True, exist_ok=True)
    return cache_folder()


def _construct(cls: type, arguments: dict[str, Any], parameters: Sequence[str]) -> Any:
    """Open the data set; download it only where it is not there."""
    where = f"{cls.__name__} in {arguments.get('root')}"
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"data.options: {cls.__name__}: {error}") from error
    except (RuntimeError, OSError) as error:
        if "download" not in parameters:
            raise ValueError(f"data.root: cannot open {where}: {error}") from error
    try:
        return cls(**arguments, download=True)
    # The kinds of a failed download are many: no network, a proxy, a mirror gone, a full disk.
    except Exception as error:
        raise ValueError(f"data.root: no {where}, and its download failed: {error}") from error


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
    reader = getattr(dataset, "reader", dataset)  # timm's: its own __getitem__ skips bad images
    samples = _samples(reader)
    if samples is not None:
        return file_part(config, samples, root or Path())
    read = ItemReader(reader)
    labels, names = [], []
    for index in range(len(reader)):
        try:
            value, label = reader[index][:2]
            labels.append(int(label))
            digest = hashlib.sha256(as_image(value).convert("RGB").tobytes()).hexdigest()
        # Decoders and libraries raise all kinds; a label may be of any type. The index is named.
        except Exception as error:
            raise ValueError(
                f"data.name: item {index} of {config.name} is not (image, class): {error!r}"
            ) from error
        names.append(f"{index} of {config.name}, content {digest}")
    indices = np.arange(len(names))
    images = DecodedImages(read, pack(names), indices, config.image_size or 224, crop_share(config))
    return Part(images, np.array(labels, dtype=np.int64))


def _pixels(dataset: Any) -> Part | None:
    """Of a data set that holds its pixels: N x H x W, N x H x W x C or N x C x H x W, bytes."""
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


def _samples(reader: Any) -> list[tuple[str, int]] | None:
    """Of a data set that lists its files: path and label of each.

    These attributes are private in some of torchvision's classes; where one is gone the data set
    is read item by item instead, which is slower and gives the same images.
    """
    for key in ("samples", "_samples", "imgs"):
        samples = getattr(reader, key, None)
        if samples and isinstance(samples[0][0], str | Path):
            return [(str(path), int(label)) for path, label in samples]
    files = getattr(reader, "_image_files", getattr(reader, "_images", None))
    labels = getattr(reader, "_labels", None)
    if files and labels and len(files) == len(labels):
        return [(str(path), int(label)) for path, label in zip(files, labels, strict=True)]
    return None
