"""Mean and interval over seeds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from adacomcat.checks import require

LEVEL = 0.95
"""Confidence of every interval that figures and tables show."""

MIN_SEEDS = 3
"""With fewer, the interval would rest on one degree of freedom or none: nothing is claimed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in the unit of its values.

    Attributes:
        mean: nan for no seed.
        low: lower end of the interval; nan where there is none.
        high: upper end; nan where there is none.
        seeds: how many values it rests on.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)


def estimate(values: Iterable[float], *, level: float = LEVEL) -> Estimate:
    """The mean and its two-sided Student t interval (Student, Biometrika 6, 1908).

    `mean -+ t(level, n - 1) * s / sqrt(n)` with the sample's standard deviation s. Seeds are taken
    as independent draws. With fewer than `MIN_SEEDS` there is a mean but no interval.

    Args:
        values: one a seed.
        level: confidence, between 0 and 1.

    Raises:
        ValueError: a value that is not finite, or a level outside of 0 to 1.
    """
    require(0 < level < 1, "level", level, "between 0 and 1")
    sample = np.asarray(list(values), dtype=float)
    require(bool(np.isfinite(sample).all()), "values", sample.tolist(), "finite numbers")
    seeds = len(sample)
    if seeds == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(sample.mean())
    if seeds < MIN_SEEDS:
        return Estimate(mean, math.nan, math.nan, seeds)
    half = float(stats.t.ppf((1 + level) / 2, seeds - 1) * sample.std(ddof=1) / math.sqrt(seeds))
    return Estimate(mean, mean - half, mean + half, seeds)
