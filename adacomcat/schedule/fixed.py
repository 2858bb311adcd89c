"""Schedules by rule: fixed, once, never."""

from typing import ClassVar

from pydantic import PositiveInt

from adacomcat.schedule.base import Schedule


class Fixed(Schedule):
    """A search every `every` epochs: `start`, `start + every`, ..."""

    kind: ClassVar[str] = "fixed"

    every: PositiveInt = 1
    start: PositiveInt = 1
    """Epoch of the first search; epoch 0 trains before anything is searched."""

    def due(self, epoch: int) -> bool:
        return epoch >= self.start and (epoch - self.start) % self.every == 0

    @property
    def interval(self) -> float:
        return float(self.every)


class Once(Schedule):
    """One search, at epoch `at`."""

    kind: ClassVar[str] = "once"

    at: PositiveInt = 1

    def due(self, epoch: int) -> bool:
        return epoch == self.at


class Never(Schedule):
    """No search: the control that shows the benefit of searching."""

    kind: ClassVar[str] = "never"

    def due(self, epoch: int) -> bool:
        return False
