"""Images of a split: held in memory, or decoded from files as they are needed.

Shapes: B images of a batch, C channels, H x W pixels, N images of a split.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from adacomcat.data.content import DIGEST_BYTES, Contents

Read = Callable[[int], Image.Image]


class MemoryImages:
    """Pixels held in memory at their own size, as those of small data sets."""

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

    def name(self, position: int) -> str:
        """Name of an image, for messages."""
        return f"image {position}"

    def digests(self) -> np.ndarray:
        """SHA-256 of each image's pixels, (N, 32) uint8."""
        hashes = b"".join(hashlib.sha256(image.tobytes()).digest() for image in self.pixels.numpy())
        return np.frombuffer(hashes, np.uint8).reshape(len(self), DIGEST_BYTES)

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

    def __init__(self, read: Read, contents: Contents, indices: np.ndarray) -> None:
        """Set up; nothing is read.

        Args:
            read: index of the source -> image; may raise anything for an image it cannot read.
            contents: names and hashes of the images of the source.
            indices: N, which images of the source these are.
        """
        self._read, self._contents, self._indices = read, contents, indices

    def __len__(self) -> int:
        return len(self._indices)

    def select(self, indices: np.ndarray) -> "DecodedImages":
        """The images at `indices`, in that order."""
        return DecodedImages(self._read, self._contents, self._indices[indices])

    def name(self, position: int) -> str:
        """Name of an image, for messages."""
        return self._contents.name(int(self._indices[position]))

    def digests(self) -> np.ndarray:
        """SHA-256 of each image's file, (N, 32) uint8.

        Raises:
            ValueError: a file cannot be read; the message names it.
        """
        return self._contents.digests(self._indices)

    def read(self, position: int) -> Image.Image:
        """One whole image, RGB, at its own size.

        Raises:
            UndecodableImage: it is damaged, cut off, or no image; the message names it.
            ValueError: it cannot be reached: a file that is gone or forbidden, a failing disk.
        """
        try:
            with _no_cut_images():
                return self._read(int(self._indices[position])).convert("RGB")
        # Decoders raise OSError, SyntaxError, EOFError, struct.error ...: whatever it is, the
        # message must name the image.
        except Exception as error:
            name = self.name(position)
            # The system's errors have a number, those of decoders have none.
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
    """Make Pillow refuse truncated files, whatever another library has set."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def as_image(value: Any) -> Image.Image:
    """PIL image from an image of a data set (a PIL image or an open file).

    Raises:
        TypeError: it is neither.
    """
    if hasattr(value, "read"):  # timm's readers give an open file
        with value:
            value = Image.open(io.BytesIO(value.read()))
    if not isinstance(value, Image.Image):
        raise TypeError(f"expected a PIL image, got {type(value).__name__}")
    return value
