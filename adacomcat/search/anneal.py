"""The temperature of the mixture across a search phase."""

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
