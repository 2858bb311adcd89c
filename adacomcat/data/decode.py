"""Loader processes: batches of image files, decoded and augmented one by one.

An image that cannot be decoded is an error, or, with `runtime.skip_unreadable`, left out. In an
evaluation its batch is one image shorter, or not there. In training its place goes to the next
image of the split that can be decoded, which follows from the split alone: every worker keeps its
number of batches and every batch its size, so workers never wait for one that has no batch, and
mixup, accumulated gradients and the mean over workers stay as they are.

Shapes: B images of a batch, C channels, H x W pixels.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from adacomcat.data.images import DecodedImages, UndecodableImage
from adacomcat.data.transforms import borrowed_generators

PREFETCHED = 4
"""Batches that each loader process has ready."""
Place = tuple[int, int]
"""Image of the split, and seed of its augmentation."""
Decoded = tuple[Tensor, Tensor, list[tuple[int, str]], str | None]
"""Pixels (B x C x H x W, bytes), which images of the split they are (B, int64), what was left out
(image of the split, reason), and an error that ends the epoch."""


SHARED_MEMORY = Path("/dev/shm")


class LoaderProcessError(OSError):
    """A loader process ended; the message names remedies."""


class EpochBatches(Sampler[list[Place]]):
    """Batches of the current epoch; read by the main process only.

    A `DataLoader` keeps one sampler for life, and its worker processes with it; what changes from
    epoch to epoch changes in here.

    Attributes:
        images: which image of the split is at each place of the epoch.
        seeds: of each place's augmentation; None where there is none.
        places: of each batch.
    """

    def __init__(self) -> None:
        self.images = np.zeros(0, dtype=np.int64)
        self.seeds: np.ndarray | None = None
        self.places: list[slice] = []

    def __iter__(self) -> Iterator[list[Place]]:
        for place in self.places:
            images = self.images[place]
            seeds = np.zeros_like(images) if self.seeds is None else self.seeds[place]
            yield list(zip(images.tolist(), seeds.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.places)


class _Decoding(Dataset[Any]):
    """Reads the images of a batch; a `DataLoader` requests one batch at a time."""

    def __init__(
        self,
        images: DecodedImages,
        transform: Callable[[Image.Image], Tensor],
        *,
        image_size: int,
        train: bool,
        skip: bool,
    ) -> None:
        self._images, self._transform, self._image_size = images, transform, image_size
        self._train, self._skip = train, skip

    def __getitems__(self, batch: list[Place]) -> Decoded:
        """One batch."""
        pixels, taken = [], []
        left_out: dict[int, str] = {}
        asked, position, image = -1, -1, None
        with borrowed_generators() as reseed:
            for wanted, seed in batch:
                try:
                    if wanted != asked:  # the copies of an image lie together: decoded once
                        asked = wanted
                        position, image = self._decodable(wanted, left_out)
                # As a value: what a loader process raises arrives wrapped in its traceback.
                except ValueError as error:
                    return self._stack([]), torch.empty(0), [], str(error)
                if image is not None:
                    reseed(seed)
                    pixels.append(self._transform(image))
                    taken.append(position)
        images = torch.tensor(taken, dtype=torch.int64)
        return self._stack(pixels), images, list(left_out.items()), None

    def _decodable(self, position: int, left_out: dict[int, str]) -> tuple[int, Image.Image | None]:
        """The image at `position`, or one in its place, or None, and where it is.

        Raises:
            ValueError: an image that cannot be read, nor skipped; a split without any image.
        """
        count = len(self._images)
        for step in range(count if self._train else 1):
            candidate = (position + step) % count
            try:
                return candidate, self._images.read(candidate)
            except UndecodableImage as error:
                if not self._skip:
                    raise ValueError(
                        f"{error}; runtime.skip_unreadable: true leaves such images out"
                    ) from error
                left_out[candidate] = str(error)
        if self._train:
            raise ValueError(f"{left_out[position]}; nor can any other of the {count} images")
        return position, None

    def _stack(self, pixels: list[Tensor]) -> Tensor:
        if pixels:
            return default_collate(pixels)  # in a loader process: into shared memory
        return torch.empty((0, 3, self._image_size, self._image_size), dtype=torch.uint8)


def decoder(
    images: DecodedImages,
    transform: Callable[[Image.Image], Tensor],
    batches: EpochBatches,
    *,
    image_size: int,
    train: bool,
    skip: bool,
    num_workers: int,
    device: torch.device,
) -> "DataLoader[Decoded]":
    """Loader that reads, decodes and augments images one by one; the rest follows on the device.

    Args:
        images: of the split.
        transform: an image as decoded -> C x H x W bytes.
        batches: what to read.
        image_size: H and W.
        train: an image left out is replaced.
        skip: leave out what cannot be decoded.
        num_workers: processes; 0 reads in this one.
        device: where the batches are wanted; for CUDA their memory is pinned.
    """
    return DataLoader(
        _Decoding(images, transform, image_size=image_size, train=train, skip=skip),
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=PREFETCHED if num_workers > 0 else None,
        pin_memory=device.type == "cuda",
        # The DataLoader draws a seed from this for each epoch. From the global generator it would
        # disturb the model's random numbers, and differently for other kinds of data.
        generator=torch.Generator(),
    )


def received(loader: "DataLoader[Decoded]") -> Iterator[Decoded]:
    """The batches of a loader.

    Raises:
        LoaderProcessError: a loader process ended, or could not pass on a batch.
    """
    try:
        yield from loader
    # A process that dies, or has no shared memory, is a RuntimeError; one without files an OSError.
    except (RuntimeError, OSError) as error:
        if loader.num_workers == 0:
            raise
        reason = str(error).strip().splitlines()[-1]
        memory = ""
        if SHARED_MEMORY.is_dir():
            size_mb = shutil.disk_usage(SHARED_MEMORY).total / 2**20
            memory = f"; batches pass through {SHARED_MEMORY}, which has {size_mb:,.0f} MB here"
        raise LoaderProcessError(
            f"a loader process failed ({reason}){memory}; enlarge it (docker run --shm-size=8g) "
            "or load images without processes (--workers 0, runtime.num_workers 0)"
        ) from error


def _as_it_is(batch: Any) -> Any:
    return batch
