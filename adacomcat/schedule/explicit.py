"""Explicit schedule: a list of epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from adacomcat.checks import require
from adacomcat.schedule.base import Schedule, require_whole


@dataclass
class Explicit(Schedule):
    """A search at each of the listed epochs, epoch 0 included where it is listed.

    Raises:
        ValueError: not a list, or an entry that is not an integer of 0 or more.
    """

    kind: ClassVar[str] = "explicit"

    epochs: Sequence[int]
    """Any order and repeats are taken; kept sorted, each once."""

    def __post_init__(self) -> None:
        is_list = isinstance(self.epochs, list | tuple)
        require(is_list, "schedule.epochs", self.epochs, "a list of epochs")
        for epoch in self.epochs:
            require_whole(epoch, 0, "epochs")
        self.epochs = tuple(sorted(set(self.epochs)))

    def due(self, epoch: int) -> bool:
        return epoch in self.epochs
