"""Generated or locally installed data sets: digits, Fashion-MNIST, synthetic patterns.

Images in memory keep their own size here; the loader resizes them batch by batch.
"""

import gzip
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from adacomcat.checks import require
from adacomcat.config import DataConfig
from adacomcat.data.images import MemoryImages
from adacomcat.data.source import Part, Source, existing_root, read_options
from adacomcat.files import default_cache

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of the four IDX files of Debian's package `dataset-fashion-mnist`."""
FASHION_CLASSES = tuple(FashionMNIST.classes)


def digits(config: DataConfig) -> Source:
    """Scikit-learn's digits: 1 797 images, 8 x 8, gray, 17 levels."""
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


def synthetic(config: DataConfig) -> Source:
    """A smooth random pattern for each class, plus noise for each pixel; quick to learn."""
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


def fashion_mnist(config: DataConfig) -> Source:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60 000 + 10 000 images, 28 x 28, gray."""
    read_options(config, {})
    folder = _fashion_folder(config)
    train, test = (_idx_part(folder, prefix) for prefix in ("train", "t10k"))
    return Source(train, test, FASHION_CLASSES)


def _fashion_folder(config: DataConfig) -> Path:
    """The folder with the IDX files; downloads them when there is none."""
    if config.root is None:
        if DEBIAN_FASHION_MNIST.is_dir():
            return DEBIAN_FASHION_MNIST
        root = default_cache()
    else:
        root = existing_root(config, "a folder with the IDX files of Fashion-MNIST")
    raw = root / "FashionMNIST" / "raw"  # torchvision's layout
    for folder in (root, raw):
        if any(folder.glob("*-ubyte*")):
            return folder
    try:
        FashionMNIST(str(root), download=True)
    # A download fails in many ways: no network, a proxy, a mirror that is gone, a full disk.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"data.root: no IDX files of Fashion-MNIST in {root}, and the download into it failed "
            f"({reason}); give a folder that has them, or install Debian's dataset-fashion-mnist"
        ) from error
    return raw


def _idx_part(folder: Path, prefix: str) -> Part:
    """One split of Fashion-MNIST, from its file of images and its file of labels."""
    images, pixels = _read_idx(read_image_file, folder, f"{prefix}-images-idx3-ubyte")
    labels, targets = _read_idx(read_label_file, folder, f"{prefix}-labels-idx1-ubyte")
    if len(pixels) != len(targets):
        raise ValueError(f"data.root: {images} has {len(pixels)} images, {labels} {len(targets)}")
    if len(targets) and int(targets.max()) >= len(FASHION_CLASSES):
        raise ValueError(f"data.root: {labels} holds the label {int(targets.max())}, above 9")
    return Part(MemoryImages(pixels[:, None]), targets.numpy().astype(np.int64))


def _read_idx(read: Callable[[str], Tensor], folder: Path, name: str) -> tuple[Path, Tensor]:
    """Read an IDX file, plain or compressed, with torchvision's reader, which takes plain ones.

    Returns:
        The file's path and its content.

    Raises:
        ValueError: the file is missing or damaged.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() or not packed.is_file() else packed
    try:
        if path is plain:
            return path, read(str(path))
        with tempfile.TemporaryDirectory() as unpacked:
            copy = Path(unpacked, name)
            copy.write_bytes(gzip.decompress(path.read_bytes()))
            return path, read(str(copy))
    # The reader asserts, looks up types and reshapes.
    except (
        OSError,
        EOFError,
        zlib.error,
        AssertionError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise ValueError(f"data.root: cannot read {path}: {error!r}") from error
