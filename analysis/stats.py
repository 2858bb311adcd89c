"""Means and intervals over seeds, and paired comparisons of two arms.

Tests and corrections are those of scipy and statsmodels.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from adacomcat.checks import require

LEVEL = 0.95
"""Confidence of every interval and bound that figures and tables show."""

MIN_SEEDS = 3
"""Seeds needed for an interval; fewer leave at most one degree of freedom."""

_SAME = 1e-9
"""Differences that are nearer than this share of the values differ by rounding only."""


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

    def named(self) -> str:
        """Kind of interval, or the reason why there is none."""
        if self.has_interval:
            return f"{LEVEL:.0%} t"
        equal = f"all {self.seeds} seeds are equal"
        few = _counted(self.seeds, "seed", "seeds")
        return f"no interval: {few if self.seeds < MIN_SEEDS else equal}"


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean of paired differences, in the unit of the values; `seeds` counts the pairs.

    Attributes:
        p: of the two-sided paired t test, not corrected; nan where there is none.
        bound: lower end of the one-sided interval; nan where there is none.
        equal: whether all differences are the same, so that they have no spread to judge by.
    """

    p: float = math.nan
    bound: float = math.nan
    equal: bool = False

    @property
    def loss_bound(self) -> float:
        """The largest loss that the data leave possible: they rule out any that is larger.

        0 where they rule out every loss; nan where there is no interval.
        """
        return math.nan if math.isnan(self.bound) else max(0.0, -self.bound)

    def ruled_out(self) -> str:
        """The equivalence statement in words, for values that are shares: in percentage points.

        Numbers are rounded to the side that claims less.
        """
        if self.seeds < MIN_SEEDS:
            return f"no interval: {_counted(self.seeds, 'pair of seeds', 'pairs of seeds')}"
        if self.equal:
            return f"no interval: all {self.seeds} differences are equal"
        hundredths = 1e4 * self.bound
        if 0 <= hundredths < 1:
            return "any loss"
        if hundredths >= 1:
            return f"any loss; the gain is at least {math.floor(hundredths) / 100:.2f} points"
        return f"a loss of more than {math.ceil(-hundredths) / 100:.2f} points"


def _counted(number: int, one: str, several: str) -> str:
    return {0: f"no {one}", 1: f"1 {one}"}.get(number, f"{number} {several}")


def estimate(values: Iterable[float], *, level: float = LEVEL) -> Estimate:
    """The mean and its two-sided Student t interval (Student, Biometrika 6, 1908).

    `mean -+ t(level, n - 1) * s / sqrt(n)` with the sample's standard deviation s. Seeds are taken
    as independent draws. With fewer than `MIN_SEEDS` there is a mean but no interval, nor where all
    values are equal: without a spread it would be a point, which is more than a few seeds can say.

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
    if seeds < MIN_SEEDS or _all_equal(sample, sample):
        return Estimate(mean, math.nan, math.nan, seeds)
    half = float(stats.t.ppf((1 + level) / 2, seeds - 1) * sample.std(ddof=1) / math.sqrt(seeds))
    return Estimate(mean, mean - half, mean + half, seeds)


def _all_equal(values: NDArray[np.float64], scale: NDArray[np.float64]) -> bool:
    """Whether values are equal up to rounding."""
    return bool(np.ptp(values) <= _SAME * np.abs(scale).max())


def difference(
    values: Mapping[int, float], reference: Mapping[int, float], *, level: float = LEVEL
) -> Difference:
    """Difference of an arm from its reference, over the seeds that both have.

    The interval, the p-value and the one-sided lower bound are those of the paired t test (Student,
    Biometrika 6, 1908; `scipy.stats.ttest_rel`). With fewer than `MIN_SEEDS` pairs there is a mean
    and nothing else, as where all differences are equal: see `estimate`.

    Args:
        values: seed -> value of the arm.
        reference: seed -> value of what it is compared with.
        level: confidence of the interval and of the bound, between 0 and 1.

    Raises:
        ValueError: a value that is not finite, or a level outside of 0 to 1.
    """
    require(0 < level < 1, "level", level, "between 0 and 1")
    seeds = sorted(values.keys() & reference.keys())
    sample = np.array([[values[s], reference[s]] for s in seeds], dtype=float).reshape(-1, 2)
    require(bool(np.isfinite(sample).all()), "values", sample.tolist(), "finite numbers")
    apart = sample[:, 0] - sample[:, 1]
    mean = float(apart.mean()) if seeds else math.nan
    equal = bool(seeds) and _all_equal(apart, sample)
    if len(seeds) < MIN_SEEDS or equal:
        return Difference(mean, math.nan, math.nan, len(seeds), equal=equal)
    test = stats.ttest_rel(sample[:, 0], sample[:, 1])
    greater = stats.ttest_rel(sample[:, 0], sample[:, 1], alternative="greater")
    ends = test.confidence_interval(level)
    return Difference(
        mean,
        float(ends.low),
        float(ends.high),
        len(seeds),
        p=float(test.pvalue),
        bound=float(greater.confidence_interval(level).low),
    )


def holm(p_values: ArrayLike) -> list[float]:
    """p-values corrected for how many there are (Holm, Scand. J. Statist. 6, 1979).

    Args:
        p_values: of one family of tests; nan where there was no test, which stays and counts not.
    """
    corrected = np.array(p_values, dtype=float)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = multipletests(corrected[tested], method="holm")[1]
    return [float(p) for p in corrected]
