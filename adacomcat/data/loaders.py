"""Batches of a split, the same global batches for every number of workers.

The order of an epoch and the augmentation of each place in it follow from (seed, epoch) alone. A
global batch is a run of `batch_size` places; worker w of W takes places w, w + W, w + 2W ... of it.
So a study gives the same numbers on one worker and on several, and an epoch can be repeated, or
resumed at, without the ones before it.

Shapes: B images of one worker's batch, C channels, H x W pixels, N images of the split.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from adacomcat.checks import require
from adacomcat.data.augment import Augment, apply, check_augment, draw
from adacomcat.data.images import DecodedImages, MemoryImages
from adacomcat.data.splits import Split

ORDER_STREAM = 0
"""Sets the random numbers of the order apart from those of the augmentation."""
AUGMENT_STREAM = 1
Batch = tuple[Tensor, Tensor]


class _EpochBatches(Sampler[list[int]]):
    """Hands out the index lists of the epoch at hand; read by the main process only.

    A `DataLoader` keeps one sampler for life, and its worker processes with it; what changes from
    epoch to epoch changes in here.
    """

    def __init__(self) -> None:
        self.lists: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.lists)

    def __len__(self) -> int:
        return len(self.lists)


class Loader:
    """Gives one worker's share of a split, epoch by epoch; made by `make_loader`.

    Attributes:
        images: how many images one epoch gives, over all workers.
        epoch: what the order and the augmentation follow from; set by `set_epoch`.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        train: bool,
        augment: Augment,
        rank: int,
        world: int,
        device: torch.device,
        num_workers: int,
    ) -> None:
        self.batch_size, self.seed, self.train, self.augment = batch_size, seed, train, augment
        self.rank, self.world, self.device = rank, world, device
        self.epoch = 0
        size = len(split)
        self.images = size // batch_size * batch_size if train else size
        self._split = split
        self._spec = split.spec
        self._labels = split.labels.to(device)
        shape = (1, split.spec.in_chans, 1, 1)
        self._mean = torch.tensor(split.spec.mean, device=device).view(shape)
        self._std = torch.tensor(split.spec.std, device=device).view(shape)
        if isinstance(split.images, MemoryImages):
            self._pixels = split.images.pixels.to(device)
        else:
            self._batches = _EpochBatches()
            self._decoder = _decoder(split.images, self._batches, num_workers, device)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches that this worker gives in an epoch."""
        full, rest = divmod(self.images, self.batch_size)
        return (full if self.rank < self.batch_size else 0) + (rest > self.rank)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch.

        Yields:
            images, B x C x H x W, float32, normalised, and labels, B, int64, on the device. No
            batch is empty; in evaluation the last may be short, or fall to the first workers only.
        """
        order = self._order().to(self.device)
        parameters = self._parameters()
        places = self._places()
        decoded = None
        if isinstance(self._split.images, DecodedImages):
            host = order.cpu()
            self._batches.lists = [host[place].tolist() for place in places]
            decoded = iter(self._decoder)
        for place in places:
            indices = order[place]
            pixels = self._pixels[indices] if decoded is None else next(decoded)
            drawn = None if parameters is None else parameters[place]
            yield self._finish(pixels, drawn), self._labels[indices]

    def _order(self) -> Tensor:
        """Which image of the split is at each place of the epoch."""
        if not self.train:
            return torch.arange(self.images)
        rng = np.random.default_rng((self.seed, self.epoch, ORDER_STREAM))
        return torch.from_numpy(rng.permutation(len(self._split))[: self.images])

    def _parameters(self) -> Tensor | None:
        rng = np.random.default_rng((self.seed, self.epoch, AUGMENT_STREAM))
        parameters = draw(self.augment, self.images, rng)
        return None if parameters is None else parameters.to(self.device)

    def _places(self) -> list[slice]:
        """This worker's places of each global batch."""
        starts = range(0, self.images, self.batch_size)
        stops = [min(start + self.batch_size, self.images) for start in starts]
        return [
            slice(start + self.rank, stop, self.world)
            for start, stop in zip(starts, stops, strict=True)
            if start + self.rank < stop
        ]

    def _finish(self, pixels: Tensor, parameters: Tensor | None) -> Tensor:
        """Bytes to what the model is given: resized, augmented, normalised."""
        images = pixels.to(self.device, non_blocking=True).float().div_(255)
        side = self._spec.image_size
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        images = apply(self.augment, images, parameters)
        return (images - self._mean).div_(self._std)


def _decoder(
    images: DecodedImages, batches: _EpochBatches, num_workers: int, device: torch.device
) -> "DataLoader[Tensor]":
    """What reads and decodes; augmentation follows on the device, a batch at a time."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
        # The DataLoader draws a seed from this for each epoch. From the global generator it would
        # disturb the model's random numbers, and differently for other kinds of data.
        generator=torch.Generator(),
    )


def make_loader(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    train: bool,
    augment: Augment = "none",
    rank: int = 0,
    world: int = 1,
    device: str | torch.device = "cpu",
    num_workers: int = 0,
) -> Loader:
    """A loader of one split for one worker.

    Args:
        split: what to read.
        batch_size: images of a batch, over all workers.
        seed: of the order and the augmentation.
        train: shuffle, and drop the last incomplete batch; otherwise every image comes exactly
            once over all workers, in order.
        augment: `none`, `affine` or `crop_flip`.
        rank: which worker this is.
        world: how many there are.
        device: where the batches are wanted; data held in memory is kept there.
        num_workers: processes that decode; unused for data held in memory.

    Raises:
        ValueError: a batch larger than the split, or that cannot be shared evenly in training; an
            unknown augmentation; a rank or a number of processes that cannot be.
    """
    require(batch_size > 0, "batch_size", batch_size, "1 or more")
    require(seed >= 0, "seed", seed, "0 or more")
    require(0 <= rank < world, "rank", rank, f"0 to {world - 1}, below the number of workers")
    require(num_workers >= 0, "data.num_workers", num_workers, "0 or more")
    check_augment(augment)
    if train:
        most = f"at most {len(split)}, the images of the {split.name} split"
        require(batch_size <= len(split), "batch_size", batch_size, most)
        # Workers average their gradients, each with the same weight.
        shared = f"a multiple of {world}, the number of workers"
        require(batch_size % world == 0, "batch_size", batch_size, shared)
    return Loader(
        split, batch_size=batch_size, seed=seed, train=train, augment=augment, rank=rank,
        world=world, device=torch.device(device), num_workers=num_workers,
    )  # fmt: skip


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
