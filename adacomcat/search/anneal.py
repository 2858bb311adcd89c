"""Annealing of the mixture temperature and of the learning rate during a search."""

import math
from collections.abc import Sequence

from adacomcat.config import SearchConfig


def temperature(config: SearchConfig, epoch: int, searches: int, epochs: int) -> float:
    """Exponential decay from `temperature_start` to `temperature_end`.

    On the clock `per_epoch` the first possible search (epoch 1) is at the start and the last epoch
    at the end, whatever the schedule; on `per_search` (the reference) each search takes one of
    those steps, so that a schedule with fewer searches also ends hotter.

    Args:
        config: start, end and clock.
        epoch: the epoch of this search, from 0.
        searches: how many searches came before this one.
        epochs: length of the search phase.
    """
    steps = max(epochs - 2, 1)
    done = searches if config.clock == "per_search" else epoch - 1
    share = min(max(done / steps, 0.0), 1.0)
    return float(
        config.temperature_start * (config.temperature_end / config.temperature_start) ** share
    )


class LearningRate:
    """A cosine from `lr` to `min_lr`, step by step, over all searches that there may be.

    On the clock `per_epoch` a search takes the piece of the cosine that belongs to its epoch; on
    `per_search` each search takes the next piece. DiffRate steps once an epoch, after it, so that
    its three epochs never come near the end.
    """

    def __init__(self, config: SearchConfig, due_epochs: Sequence[int]) -> None:
        """
        Args:
            config: the rates and the clock.
            due_epochs: epochs at which a search may happen.
        """
        self.config, self.due_epochs = config, due_epochs

    def at(self, epoch: int, searches: int, step: int, steps: int) -> float:
        """The rate of one step.

        Args:
            epoch: of this search.
            searches: how many came before this one.
            step: of this search, from 0.
            steps: that it takes if it is not ended early.
        """
        if self.config.min_lr is None:
            return self.config.lr
        before = sum(due < epoch for due in self.due_epochs)
        piece = searches if self.config.clock == "per_search" else before
        last = len(self.due_epochs) * steps - 1
        share = min((piece * steps + step) / max(last, 1), 1.0)
        span = self.config.lr - self.config.min_lr
        return self.config.min_lr + span * (1 + math.cos(math.pi * share)) / 2
