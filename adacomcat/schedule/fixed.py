"""Schedules by rule: fixed, once, never."""

from dataclasses import dataclass
from typing import ClassVar

from adacomcat.schedule.base import Schedule, require_whole


@dataclass
class Fixed(Schedule):
    """A search every `every` epochs: `start`, `start + every`, ...

    Raises:
        ValueError: a coefficient that is not an integer of 1 or more.
    """

    kind: ClassVar[str] = "fixed"

    every: int = 1
    start: int = 1
    """Epoch of the first search; epoch 0 trains before anything is searched."""

    def __post_init__(self) -> None:
        require_whole(self.every, 1, "every")
        require_whole(self.start, 1, "start")

    def due(self, epoch: int) -> bool:
        return epoch >= self.start and (epoch - self.start) % self.every == 0

    @property
    def interval(self) -> float:
        return float(self.every)


@dataclass
class Once(Schedule):
    """One search, at epoch `at`.

    Raises:
        ValueError: `at` is not an integer of 1 or more.
    """

    kind: ClassVar[str] = "once"

    at: int = 1

    def __post_init__(self) -> None:
        require_whole(self.at, 1, "at")

    def due(self, epoch: int) -> bool:
        return epoch == self.at


@dataclass
class Never(Schedule):
    """No search: the control that shows what searching is worth at all."""

    kind: ClassVar[str] = "never"

    def due(self, epoch: int) -> bool:
        return False
