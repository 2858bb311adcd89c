"""Separate, device-synchronized clocks for training, search, rebuild and evaluation."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from adacomcat.parallel import synchronize

SPANS = ("train", "search", "rebuild", "eval", "data")
"""`data` is waiting for batches; it is part of `train` or `search`, whichever waited."""


class Clock:
    """Seconds by span, since the last `lap`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds = dict.fromkeys(SPANS, 0.0)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the time of the block to a span."""
        assert name in self._seconds, name
        synchronize(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self.device)
            self._seconds[name] += time.perf_counter() - start

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass batches through and add the time spent waiting for them to `data`."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self._seconds["data"] += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def lap(self) -> dict[str, float]:
        """Seconds by span as `train_s`, ..., and start again from zero."""
        taken = {f"{name}_s": seconds for name, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(SPANS, 0.0)
        return taken
