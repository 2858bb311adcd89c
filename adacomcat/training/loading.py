"""Loaders of a trial, each created once."""

import torch

from adacomcat import parallel
from adacomcat.config import DataConfig, RuntimeConfig
from adacomcat.data import Loader, Split, Splits, make_loader


class Loaders:
    """Loaders by split and batch size: those of files keep their processes from epoch to epoch."""

    def __init__(
        self,
        splits: Splits,
        data: DataConfig,
        runtime: RuntimeConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.splits, self.data, self.runtime = splits, data, runtime
        self.seed, self.device = seed, device
        self._made: dict[tuple[str, int, bool], Loader] = {}

    def train(self, batch_size: int) -> Loader:
        """Loader of the training images, augmented."""
        return self._loader(self.splits.train, batch_size, train=True)

    def search(self, batch_size: int) -> Loader:
        """Loader of the search images, shuffled."""
        return self._loader(self.splits.search, batch_size, train=True)

    def whole(self, split: Split, batch_size: int) -> Loader:
        """Loader of a split without changes: every image once, in order."""
        return self._loader(split, batch_size, train=False)

    def unreadable(self) -> int:
        """Images that could not be decoded and were left out, over all workers.

        Counted since the loaders were made, so a resumed trial begins at 0; an image counts once
        for each worker and each loader that met it.
        """
        if not self.runtime.skip_unreadable:
            return 0
        count = sum(loader.unreadable for loader in self._made.values())
        return int(parallel.sum_over_workers_(torch.tensor(count, device=self.device)))

    def _loader(self, split: Split, batch_size: int, *, train: bool) -> Loader:
        key = (split.name, batch_size, train)
        if key not in self._made:
            self._made[key] = make_loader(
                split,
                self.data,
                batch_size=batch_size,
                seed=self.seed,
                train=train,
                augment=train and split is self.splits.train,
                rank=parallel.rank(),
                world=parallel.world(),
                device=str(self.device),
                runtime=self.runtime,
            )
        return self._made[key]
