"""Where a split's pixels are: held in memory, or decoded from files as they are needed.

Shapes: B images of a batch, C channels, H x W pixels, N images of a split.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

Read = Callable[[int], Image.Image]


@dataclass(frozen=True)
class ImageSpec:
    """What a model is given: shape and normalization.

    Attributes:
        in_chans: C.
        image_size: H and W, in pixels.
        mean: subtracted from pixels in 0..1, one a channel.
        std: what the rest is divided by, one a channel.
    """

    in_chans: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class MemoryImages:
    """Pixels held in memory at their own size; what small data sets are."""

    def __init__(self, pixels: Tensor) -> None:
        """Args: pixels: uint8, N x C x H x W with H = W."""
        assert pixels.dtype == torch.uint8 and pixels.ndim == 4, (pixels.dtype, pixels.shape)
        self.pixels = pixels.contiguous()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def in_chans(self) -> int:
        return self.pixels.shape[1]

    def select(self, indices: np.ndarray) -> "MemoryImages":
        """The images at `indices`, in that order."""
        return MemoryImages(self.pixels[torch.from_numpy(indices)])

    def identities(self) -> Iterable[bytes]:
        """One value an image, equal for equal pixels: the SHA-256 of the pixels."""
        array = self.pixels.numpy()
        return (hashlib.sha256(image.tobytes()).digest() for image in array)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of every channel, pixels in 0..1."""
        levels = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in self.pixels.unbind(1):
            # From a histogram: exact, and without a float copy of the whole set.
            share = torch.bincount(channel.flatten(), minlength=256).double()
            share = share / share.sum()
            mean = float((share * levels).sum())
            variance = float((share * (levels - mean) ** 2).sum())
            means.append(mean)
            # A channel without any contrast stays as it is: half a level is below every real one.
            stds.append(max(variance**0.5, 0.5 / 255))
        return tuple(means), tuple(stds)


class UndecodableImage(ValueError):
    """The bytes of an image are not those of a picture; the message names the image."""


class DecodedImages:
    """Images that are read and decoded one by one, each time they are needed."""

    in_chans = 3

    def __init__(
        self, read: Read, names: np.ndarray, indices: np.ndarray, size: int, crop_pct: float
    ) -> None:
        """Set up; nothing is read.

        Args:
            read: index of the source -> image; may raise anything for an image it cannot read.
            names: what identifies each image of the source, for the hash and for messages: bytes,
                as `pack` makes them.
            indices: N, which images of the source these are.
            size: H and W of what is given.
            crop_pct: share of the resized side that the center crop of an evaluation keeps.
        """
        self._read, self._names, self._indices = read, names, indices
        self.size, self.crop_pct = size, crop_pct

    def __len__(self) -> int:
        return len(self._indices)

    def select(self, indices: np.ndarray) -> "DecodedImages":
        """The images at `indices`, in that order."""
        chosen = self._indices[indices]
        return DecodedImages(self._read, self._names, chosen, self.size, self.crop_pct)

    def identities(self) -> Iterable[bytes]:
        """One value an image: its name (of a file, the relative path and the size in bytes)."""
        return (bytes(self._names[i]) for i in self._indices)

    def read(self, position: int) -> Image.Image:
        """One whole image, RGB, at its own size.

        Raises:
            UndecodableImage: it is damaged, cut off, or no image; the message names it.
            ValueError: it cannot be reached: a file that is gone or forbidden, a failing disk.
        """
        index = int(self._indices[position])
        try:
            with _no_cut_images():
                return self._read(index).convert("RGB")
        # Decoders raise OSError, SyntaxError, EOFError, struct.error ...: whatever it is, a
        # message without the image's name helps nobody among a million of them.
        except Exception as error:
            name = os.fsdecode(bytes(self._names[index]))
            # What the system refuses has a number; what a decoder refuses has none.
            if isinstance(error, OSError) and error.errno is not None:
                raise ValueError(f"data.root: cannot read the image {name!r}: {error}") from error
            raise UndecodableImage(
                f"data.root: cannot decode the image {name!r}: {error}"
            ) from error


Images = MemoryImages | DecodedImages


def pack(texts: Sequence[str]) -> np.ndarray:
    """Many short texts as one block of bytes.

    A million Python strings would be copied into every loader process: reading one counts its
    references, which writes to its page of memory.
    """
    return np.array([os.fsencode(text) for text in texts], dtype=np.bytes_)


@dataclass(frozen=True, eq=False)
class FileReader:
    """Reads image files by their index.

    Attributes:
        paths: N, bytes, as `pack` makes them.
    """

    paths: np.ndarray

    def __call__(self, index: int) -> Image.Image:
        with Image.open(os.fsdecode(bytes(self.paths[index]))) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class ItemReader:
    """Reads the items `(image, label)` of any map-style data set."""

    items: Any

    def __call__(self, index: int) -> Image.Image:
        return as_image(self.items[index][0])


@contextmanager
def _no_cut_images() -> Iterator[None]:
    """Have Pillow refuse files that end early, whatever another library told it."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def as_image(value: Any) -> Image.Image:
    """What a data set gives for an image (a PIL image or an open file) as a PIL image.

    Raises:
        TypeError: it is neither.
    """
    if hasattr(value, "read"):  # timm's readers give an open file
        with value:
            value = Image.open(io.BytesIO(value.read()))
    if not isinstance(value, Image.Image):
        raise TypeError(f"expected a PIL image, got {type(value).__name__}")
    return value
