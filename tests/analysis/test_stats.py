import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats import estimate


@given(
    st.lists(st.floats(0, 1).map(lambda x: round(x, 4)), min_size=3, max_size=12),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_interval_is_that_of_scipys_t_test(values, level):
    found = estimate(values, level=level)
    assert found.mean == pytest.approx(math.fsum(values) / len(values))
    if len(set(values)) == 1:
        assert found.low == pytest.approx(found.high)
        return
    test = scipy_stats.ttest_1samp(values, popmean=0.5).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((test.low, test.high), abs=1e-9)


def test_interval_of_three_values_by_the_printed_table():
    # t(0.975, 2) = 4.303 in any table; mean 2, s = 1, n = 3.
    found = estimate([1.0, 2.0, 3.0])
    assert (found.low, found.high) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0.9, 0.01, size=(4000, 3))
    found = [estimate(row) for row in draws]
    covered = np.mean([e.low <= 0.9 <= e.high for e in found])
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.8]])
def test_fewer_than_three_seeds_have_a_mean_and_no_interval(values):
    found = estimate(values)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.seeds == len(values)
    assert math.isnan(found.low) and math.isnan(found.high)


def test_no_seed_has_no_mean():
    found = estimate([])
    assert found.seeds == 0 and math.isnan(found.mean)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="values.*finite"):
        estimate([0.9, math.nan, 0.8])


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_level_is_a_share(level):
    with pytest.raises(ValueError, match="level"):
        estimate([0.1, 0.2, 0.3], level=level)
