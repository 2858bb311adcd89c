"""The data sets, by name: what each holds, before any split is cut.

Images in memory keep their own size here; the loader resizes them batch by batch.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import FashionMNIST
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from adacomcat.checks import require, require_known
from adacomcat.config import DataConfig
from adacomcat.data.images import DecodedImages, FileReader, Images, MemoryImages, pack

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts the four IDX files."""
NAMES = ("digits", "fashion_mnist", "imagefolder", "synthetic", "timm/NAME", "torchvision/NAME")
CROP_PCT = 0.875
"""DeiT's evaluation: the shorter side to 256, then the center 224."""
FASHION_CLASSES = tuple(FashionMNIST.classes)
IDX_FILES = ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte")


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
    """A data set as it comes.

    Attributes:
        train: what train, search and val are cut from, and test too where `test` is None.
        test: the set's own test split.
        classes: names, by label.
    """

    train: Part
    test: Part | None
    classes: tuple[str, ...]


def load_source(config: DataConfig) -> Source:
    """Open the data set that `config.name` names.

    Raises:
        ValueError: an unknown name or option, a folder that is missing or not laid out as it
            should be, an empty class, an empty or malformed file; the message names it.
    """
    family, _, member = config.name.partition("/")
    builders: Mapping[str, Callable[[DataConfig], Source]] = {
        "digits": _digits,
        "fashion_mnist": _fashion_mnist,
        "imagefolder": _imagefolder,
        "synthetic": _synthetic,
    }
    if family in ("torchvision", "timm") and member:
        # Imported late: timm.data is heavy, and most studies do not need it.
        from adacomcat.data.external import timm_source, torchvision_source

        external = torchvision_source if family == "torchvision" else timm_source
        return external(config, member)
    require(config.name in builders, "data.name", config.name, ", ".join(NAMES))
    return builders[config.name](config)


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
    root = Path(str(config.root)).expanduser()
    require(root.is_dir(), "data.root", str(root), f"{allowed}; this folder does not exist")
    return root


def cache_folder() -> Path:
    """Where downloads go when no root is given."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "adacomcat"


def _digits(config: DataConfig) -> Source:
    """Scikit-learn's digits: 1 797 images, 8 x 8, gray, 17 levels; part of that package."""
    try:
        from sklearn.datasets import load_digits  # here, not above: slow to import
    except ImportError:
        allowed = "another data set, as scikit-learn is not installed: pip install scikit-learn"
        raise ValueError(f"data.name: got 'digits', allowed: {allowed}") from None
    read_options(config, {})
    require(config.root is None, "data.root", config.root, "None: digits is part of scikit-learn")
    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    part = Part(MemoryImages(pixels[:, None]), bunch.target.astype(np.int64))
    return Source(part, None, tuple(str(name) for name in bunch.target_names))


def _synthetic(config: DataConfig) -> Source:
    """A smooth random pattern a class, plus noise a pixel: what a model can learn, in no time."""
    defaults = {
        "num_classes": 10,
        "images": 2000,
        "image_size": 16,
        "in_chans": 3,
        "noise": 0.2,
        "seed": 0,
    }
    options = read_options(config, defaults)
    require(config.root is None, "data.root", config.root, "None: synthetic is computed")
    for key in ("num_classes", "images", "image_size", "in_chans"):
        require(options[key] >= 1, f"data.options.{key}", options[key], "1 or more")
    for key in ("noise", "seed"):
        require(options[key] >= 0, f"data.options.{key}", options[key], "0 or more")
    classes, side, channels = options["num_classes"], options["image_size"], options["in_chans"]
    rng = np.random.default_rng(options["seed"])
    coarse = torch.from_numpy(rng.standard_normal((classes, channels, 4, 4), dtype=np.float32))
    prototypes = 0.5 + 0.2 * F.interpolate(coarse, (side, side), mode="bilinear")
    labels = np.arange(options["images"]) % classes
    noise = rng.standard_normal((len(labels), channels, side, side), dtype=np.float32)
    pixels = prototypes[labels] + options["noise"] * torch.from_numpy(noise)
    images = MemoryImages(pixels.clamp(0, 1).mul(255).round().to(torch.uint8))
    return Source(Part(images, labels), None, tuple(str(i) for i in range(classes)))


def _fashion_mnist(config: DataConfig) -> Source:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60 000 + 10 000 images, 28 x 28, gray."""
    read_options(config, {})
    folder = _fashion_folder(config)
    train, test = (_idx_part(folder, prefix) for prefix in ("train", "t10k"))
    return Source(train, test, FASHION_CLASSES)


def _fashion_folder(config: DataConfig) -> Path:
    """The folder that holds the IDX files; downloads them when no place has any."""
    if config.root is None:
        if DEBIAN_FASHION_MNIST.is_dir():
            return DEBIAN_FASHION_MNIST
        root = cache_folder()
    else:
        root = existing_root(config, "a folder with the IDX files of Fashion-MNIST")
    raw = root / "FashionMNIST" / "raw"  # torchvision's layout
    for folder in (root, raw):
        if any(folder.glob("*-ubyte*")):
            return folder
    try:
        FashionMNIST(str(root), download=True)
    # The kinds of a failed download are many: no network, a proxy, a mirror gone, a full disk.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"data.root: no IDX files of Fashion-MNIST in {root}, and the download into it failed "
            f"({reason}); give a folder that has them, or install Debian's dataset-fashion-mnist"
        ) from error
    return raw


def _idx_part(folder: Path, prefix: str) -> Part:
    """One split of Fashion-MNIST, from its file of images and its file of labels."""
    images, labels = (_find_idx(folder, name.format(prefix)) for name in IDX_FILES)
    pixels, targets = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(targets):
        raise ValueError(f"data.root: {images} has {len(pixels)} images, {labels} {len(targets)}")
    if len(targets) and int(targets.max()) >= len(FASHION_CLASSES):
        raise ValueError(f"data.root: {labels} holds the label {int(targets.max())}, above 9")
    return Part(MemoryImages(pixels[:, None]), targets.numpy().astype(np.int64))


def _find_idx(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"data.root: no file {name} or {name}.gz in {folder}")


def read_idx(path: Path, dims: int) -> Tensor:
    """Read an IDX file of bytes, plain or compressed (format: http://yann.lecun.com/exdb/mnist).

    Args:
        path: the file; `.gz` is decompressed.
        dims: how many dimensions it must have.

    Returns:
        uint8, of the shape in the file's head.

    Raises:
        ValueError: another format, another number of dimensions, too few or too many bytes.
    """
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"data.root: cannot decompress {path}: {error}") from error
    head = 4 + 4 * dims
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, then each of them.
    if data[:4] != bytes((0, 0, 8, dims)) or len(data) < head:
        raise ValueError(f"data.root: {path} is no IDX file of bytes in {dims} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dims, 4))
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) - head != count:
        raise ValueError(f"data.root: {path} holds {len(data) - head} bytes, its head says {count}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=head).reshape(shape).copy())


def _imagefolder(config: DataConfig) -> Source:
    """`root/train/CLASS/*` and `root/val/CLASS/*`; val is the test split (ImageNet's layout)."""
    read_options(config, {"crop_pct": CROP_PCT})
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
    classes = tuple(sorted(found["train"]))
    train, test = (_folder_part(config, root, folders[name], classes) for name in folders)
    return Source(train, test, classes)


def _folder_part(config: DataConfig, root: Path, folder: Path, classes: tuple[str, ...]) -> Part:
    index = {name: label for label, name in enumerate(classes)}
    samples = make_dataset(folder, index, IMG_EXTENSIONS, allow_empty=True)
    labels = {label for _, label in samples}
    for label, name in enumerate(classes):
        allowed = f"at least one image ({', '.join(IMG_EXTENSIONS)}) in every class"
        require(label in labels, "data.root", str(folder / name), allowed)
    return file_part(config, samples, root)


def crop_share(config: DataConfig) -> float:
    """The option `crop_pct`: the share of the resized side that the center crop keeps.

    Raises:
        ValueError: it is no number above 0 and at most 1.
    """
    value = config.options.get("crop_pct", CROP_PCT)
    sound = isinstance(value, int | float) and 0 < value <= 1
    require(sound, "data.options.crop_pct", value, "above 0, at most 1")
    return float(value)


def file_part(config: DataConfig, samples: list[tuple[str, int]], root: Path) -> Part:
    """Image files with labels, decoded when they are needed.

    Args:
        config: gives the image size, 224 if it has none.
        samples: path and label of each image.
        root: what the identity of an image is relative to.

    Raises:
        ValueError: a file is missing or empty.
    """
    names = []
    prefix = f"{root}{os.sep}"
    for path, _ in samples:
        try:
            size_bytes = os.stat(path).st_size
        except OSError as error:
            raise ValueError(f"data.root: cannot read the image {path}: {error}") from error
        require(size_bytes > 0, "data.root", path, "image files that are not empty")
        # The short way for a million of files; what is elsewhere takes the long one.
        inside = path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, root)
        names.append(f"{inside.replace(os.sep, '/')}, {size_bytes} bytes")
    read = FileReader(pack([path for path, _ in samples]))
    size = config.image_size or 224
    images = DecodedImages(read, pack(names), np.arange(len(names)), size, crop_share(config))
    return Part(images, np.array([label for _, label in samples], dtype=np.int64))
