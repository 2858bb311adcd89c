"""Batches of a split, the same global batches for every number of workers.

The order of an epoch and the augmentation of each place in it follow from (seed, epoch) alone. A
global batch is a run of `batch_size` places; worker w of W takes places w, w + W, w + 2W ... of it.
So a study gives the same numbers on one worker and on several, and an epoch can be repeated, or
resumed at, without the ones before it.

Shapes: B images of one worker's batch, C channels, H x W pixels, N images of the split.
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adacomcat.checks import require
from adacomcat.config import DataConfig, RuntimeConfig
from adacomcat.data import erasing
from adacomcat.data.augment import Augment, apply, check_augment, draw
from adacomcat.data.decode import EpochBatches, decoder, received
from adacomcat.data.images import MemoryImages
from adacomcat.data.splits import Split
from adacomcat.data.transforms import check_in_memory, evaluation, training

LOGGER = logging.getLogger("adacomcat")
# Set apart the random numbers of what is drawn for the same epoch.
ORDER_STREAM, AUGMENT_STREAM, ERASING_STREAM, IMAGE_STREAM = 0, 1, 2, 3
Batch = tuple[Tensor, Tensor]


class Loader:
    """Gives one worker's share of a split, epoch by epoch; made by `make_loader`.

    Attributes:
        images: how many images one epoch gives, over all workers, if all can be decoded.
        epoch: what the order and the augmentation follow from; set by `set_epoch`.
    """

    def __init__(
        self,
        split: Split,
        data: DataConfig,
        *,
        batch_size: int,
        seed: int,
        train: bool,
        augment: bool,
        rank: int,
        world: int,
        device: torch.device,
        runtime: RuntimeConfig,
    ) -> None:
        self.batch_size, self.seed, self.train = batch_size, seed, train
        self.rank, self.world, self.device = rank, world, device
        self.epoch = 0
        size = len(split)
        self.images = size // batch_size * batch_size if train else size
        self._augment: Augment = data.augment if augment else "none"
        self._erasing = data.random_erasing if augment else 0.0
        self._repeats = data.repeats if augment else 1
        self._split = split
        self._spec = spec = split.spec
        self._labels = split.labels.to(device)
        shape = (1, spec.in_chans, 1, 1)
        self._mean = torch.tensor(spec.mean, device=device).view(shape)
        self._std = torch.tensor(spec.std, device=device).view(shape)
        self._left_out: set[int] = set()
        if isinstance(split.images, MemoryImages):
            if augment:
                check_in_memory(data)
            self._pixels = split.images.pixels.to(device)
            return
        drawn = training(data, spec) if augment else None
        self._seeded = drawn is not None
        self._batches = EpochBatches()
        self._decoder = decoder(
            split.images,
            drawn or evaluation(spec),
            self._batches,
            image_size=spec.image_size,
            train=train,
            skip=runtime.skip_unreadable,
            num_workers=runtime.num_workers,
            device=device,
        )

    @property
    def unreadable(self) -> int:
        """Distinct images that this worker met so far and left out; `runtime.skip_unreadable`."""
        return len(self._left_out)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches that this worker gives in an epoch, if all images can be decoded."""
        full, rest = divmod(self.images, self.batch_size)
        return (full if self.rank < self.batch_size else 0) + (rest > self.rank)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch.

        Yields:
            images, B x C x H x W, float32, normalized, and labels, B, int64, on the device. No
            batch is empty; in evaluation the last may be short, or fall to the first workers only.

        Raises:
            ValueError: an image cannot be decoded, and `runtime.skip_unreadable` is not set, or
                cannot be read at all; the message names it.
            LoaderProcessError: a loader process ended, for instance for want of shared memory.
        """
        order = self._order()
        moves = draw(self._augment, self.images, self._rng(AUGMENT_STREAM))
        moves = None if moves is None else moves.to(self.device)
        rectangles = erasing.draw(
            self._erasing, self.images, self._spec.image_size, self._rng(ERASING_STREAM)
        )
        places = self._places()
        for place, (pixels, indices) in zip(places, self._read(order, places), strict=True):
            if len(indices) == 0:
                continue
            move = None if moves is None else moves[place]
            hidden = None if rectangles is None else rectangles[place]
            labels = self._labels[indices.to(self.device, non_blocking=True)]
            yield self._finish(pixels, move, hidden), labels

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, stream))

    def _order(self) -> np.ndarray:
        """Index of the image at each position of the epoch.

        Copies of an image lie next to each other, so that they fall to different workers, as in
        DeiT's RASampler (repeated augmentation, arXiv 1902.05509).
        """
        if not self.train:
            return np.arange(self.images)
        order = self._rng(ORDER_STREAM).permutation(len(self._split))
        return np.repeat(order, self._repeats)[: self.images]

    def _places(self) -> list[slice]:
        """This worker's places of each global batch."""
        starts = range(0, self.images, self.batch_size)
        stops = [min(start + self.batch_size, self.images) for start in starts]
        return [
            slice(start + self.rank, stop, self.world)
            for start, stop in zip(starts, stops, strict=True)
            if start + self.rank < stop
        ]

    def _read(self, order: np.ndarray, places: list[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields: bytes of each batch, and which images of the split they are, on the CPU."""
        if isinstance(self._split.images, MemoryImages):
            indices = torch.from_numpy(order)
            images = indices.to(self.device)
            for place in places:
                yield self._pixels[images[place]], indices[place]
            return
        self._batches.images, self._batches.places = order, places
        if self._seeded:
            self._batches.seeds = self._rng(IMAGE_STREAM).integers(0, 2**63, self.images)
        for pixels, taken, left_out, error in received(self._decoder):
            if error is not None:
                raise ValueError(error)
            for position, reason in left_out:
                if position not in self._left_out:
                    self._left_out.add(position)
                    LOGGER.warning("left out of the %s split: %s", self._split.name, reason)
            yield pixels, taken

    def _finish(
        self, pixels: Tensor, moves: Tensor | None, rectangles: np.ndarray | None
    ) -> Tensor:
        """Convert bytes to the model's input: resized, augmented, normalized, erased."""
        images = pixels.to(self.device, non_blocking=True).float().div_(255)
        side = self._spec.image_size
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        images = apply(self._augment, images, moves)
        return erasing.erase_((images - self._mean).div_(self._std), rectangles)


def make_loader(
    split: Split,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    train: bool,
    augment: bool = False,
    rank: int = 0,
    world: int = 1,
    device: str | torch.device = "cpu",
    runtime: RuntimeConfig = RuntimeConfig(),  # noqa: B008 (frozen)
) -> Loader:
    """A loader of one split for one worker.

    Args:
        split: what to read.
        data: how it is augmented.
        batch_size: images of a batch, over all workers.
        seed: of the order and the augmentation.
        train: shuffle, and drop the last incomplete batch; otherwise every image comes exactly
            once over all workers, in order.
        augment: whether the augmentation of `data` applies.
        rank: which worker this is.
        world: how many there are.
        device: where the batches are wanted; data held in memory is kept there.
        runtime: processes that decode, and what they do with damaged images (unused for data held
            in memory).

    Raises:
        ValueError: a batch larger than the split, or that cannot be shared evenly in training; an
            unknown augmentation; a rank that cannot be.
    """
    require(batch_size > 0, "batch_size", batch_size, "1 or more")
    require(seed >= 0, "seed", seed, "0 or more")
    require(0 <= rank < world, "rank", rank, f"0 to {world - 1}, below the number of workers")
    check_augment(data.augment)
    if train:
        most = f"at most {len(split)}, the images of the {split.name} split"
        require(batch_size <= len(split), "batch_size", batch_size, most)
        # Workers average their gradients, each with the same weight.
        shared = f"a multiple of {world}, the number of workers"
        require(batch_size % world == 0, "batch_size", batch_size, shared)
    return Loader(
        split,
        data,
        batch_size=batch_size,
        seed=seed,
        train=train,
        augment=augment,
        rank=rank,
        world=world,
        device=torch.device(device),
        runtime=runtime,
    )


def cycle(loader: Loader, steps: int, first_epoch: int = 0) -> Iterator[Batch]:
    """Go round a loader for a number of batches, as a search does.

    Args:
        loader: what to read; its epoch is set to `first_epoch`, `first_epoch + 1` ...
        steps: how many batches to give.
        first_epoch: epoch of the first round.

    Yields:
        What the loader gives, exactly `steps` times.

    Raises:
        ValueError: the loader has no batch for this worker.
    """
    require(len(loader) > 0, "loader", f"{loader.images} images", "at least one batch a worker")
    given = 0
    for epoch in range(first_epoch, first_epoch + steps):
        loader.set_epoch(epoch)
        for batch in loader:
            yield batch
            given += 1
            if given == steps:
                return
