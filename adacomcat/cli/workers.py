"""Worker processes of one command under `torchrun`; a single worker without it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from adacomcat.checks import require
from adacomcat.cli.process import environment_number, launched_workers
from adacomcat.cli.settings import default_device

LONGEST_WAIT = timedelta(days=7)
"""Longest time that the other workers wait while one trains the dense model."""


class Workers:
    """The workers of this command, before and while they work together.

    Attributes:
        device: of this one.
    """

    def __init__(self, device: str | None) -> None:
        """Find this worker's device, and the others, where `torchrun` has started any.

        Args:
            device: as requested; None: a GPU if there is one.

        Raises:
            ValueError: a device that this machine does not have.
        """
        _, world = launched_workers()
        self._several = world > 1
        self.device = _device(default_device(device), several=self._several)
        if self._several:
            store, rank, world = next(dist.rendezvous("env://"))
            self._store, self._rank, self._world = store, rank, world

    @contextmanager
    def first_of_machine_first(self) -> Iterator[None]:
        """Run a block on one worker of each machine, and on the others when that one is done.

        They do not work together yet: in the block each is alone.
        """
        if not self._several:
            yield
            return
        done = f"done/{os.environ.get('GROUP_RANK', '0')}"
        if _local_rank() > 0:
            self._store.wait([done], LONGEST_WAIT)
        yield
        if _local_rank() == 0:
            self._store.set(done, "yes")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work as one process group for the length of a block."""
        if not self._several:
            yield
            return
        backend = "nccl" if self.device.startswith("cuda") else "gloo"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", self._store),
            rank=self._rank,
            world_size=self._world,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def _device(asked: str, *, several: bool) -> str:
    kind, _, index = asked.partition(":")
    known = kind in ("cpu", "cuda") and (index.isdigit() or not index)
    require(known, "--device", asked, "cpu, cuda or cuda:INDEX")
    if kind == "cpu":
        return asked
    require(torch.cuda.is_available(), "--device", asked, "cpu: this machine has no GPU")
    require(not (several and index), "--device", asked, "cuda: each worker takes its own")
    number = _local_rank() if several else int(index or 0)
    count = torch.cuda.device_count()
    require(number < count, "--device", f"cuda:{number}", f"cuda:0 to cuda:{count - 1}")
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def _local_rank() -> int:
    return environment_number("LOCAL_RANK", 0)
