"""Explicit schedule: a list of epochs."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, NonNegativeInt

from adacomcat.schedule.base import Schedule


def _sorted(epochs: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(set(epochs)))


class Explicit(Schedule):
    """A search at each of the listed epochs, epoch 0 included where it is listed."""

    kind: ClassVar[str] = "explicit"

    epochs: Annotated[Sequence[NonNegativeInt], AfterValidator(_sorted)]
    """Any order and repeats are allowed; stored sorted, each once."""

    def due(self, epoch: int) -> bool:
        return epoch in self.epochs
