import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.weightstats import DescrStatsW

from analysis.stats import difference, estimate, holm


@given(
    st.lists(st.floats(0, 1).map(lambda x: round(x, 4)), min_size=3, max_size=12),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_interval_is_that_of_scipys_t_test(values, level):
    found = estimate(values, level=level)
    assert found.mean == pytest.approx(math.fsum(values) / len(values))
    if len(set(values)) == 1:
        assert math.isnan(found.low) and found.named().endswith("seeds are equal")
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


accuracies = st.lists(st.integers(400, 450).map(lambda n: n / 450), min_size=8, max_size=8)


def by_seed(values, first=0):
    return dict(enumerate(values, start=first))


@given(accuracies, accuracies, st.integers(3, 8), st.sampled_from([0.8, 0.95, 0.99]))
def test_paired_difference_is_that_of_statsmodels(one, other, pairs, level):
    one, other = one[:pairs], other[:pairs]
    found = difference(by_seed(one), by_seed(other), level=level)
    apart = np.array(one) - np.array(other)
    assert found.seeds == pairs
    assert found.mean == pytest.approx(apart.mean(), abs=1e-12)
    if np.ptp(apart) < 1e-9:
        assert found.equal and math.isnan(found.p) and not found.has_interval
        return
    reference = DescrStatsW(apart)
    assert (found.low, found.high) == pytest.approx(reference.tconfint_mean(1 - level), abs=1e-9)
    assert found.p == pytest.approx(reference.ttest_mean(0)[1], abs=1e-9)
    bound = reference.tconfint_mean(1 - level, alternative="larger")[0]
    assert found.bound == pytest.approx(bound, abs=1e-9)
    assert found.loss_bound == pytest.approx(max(0, -bound), abs=1e-9)


def test_paired_difference_by_the_printed_table():
    # Differences 1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.303, t(0.95, 2) = 2.920.
    found = difference(by_seed([2, 4, 6]), by_seed([1, 2, 3]))
    assert (found.low, found.high) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)
    assert found.bound == pytest.approx(2 - 2.920 / 3**0.5, abs=1e-3)
    assert found.loss_bound == 0


def test_only_seeds_of_both_arms_are_pairs():
    found = difference({0: 1.0, 1: 5.0, 2: 4.0, 3: 8.0}, {1: 1.0, 2: 1.0, 3: 1.0, 9: 99.0})
    alone = difference(by_seed([5.0, 4.0, 8.0]), by_seed([1.0, 1.0, 1.0]))
    assert found == alone and found.seeds == 3


def test_pairing_takes_the_seeds_own_spread_out():
    hard = np.array([0.80, 0.85, 0.90, 0.95])
    found = difference(by_seed(hard + [0.010, 0.011, 0.009, 0.010]), by_seed(hard))
    assert found.high - found.low < 0.003 < estimate(hard).high - estimate(hard).low


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ([], [], "no interval: no pair of seeds"),
        ([0.9], [0.8], "no interval: 1 pair of seeds"),
        ([0.9, 0.8], [0.8, 0.9], "no interval: 2 pairs of seeds"),
        # 0.3 - 0.2 and 0.9 - 0.8 differ by rounding alone.
        ([0.3, 0.9, 0.5], [0.2, 0.8, 0.4], "no interval: all 3 differences are equal"),
        ([0.0] * 5, [0.0] * 5, "no interval: all 5 differences are equal"),
        # Bound 0.02 - 2.920 * 0.01 / sqrt(3) = 0.314 points, rounded down.
        ([0.01, 0.02, 0.03], [0.0] * 3, "any loss; the gain is at least 0.31 points"),
        # The bound, 0.004 points, is next to nothing.
        ([0.0069, 0.0169, 0.0269], [0.0] * 3, "any loss"),
        # -0.01 / 3 - 2.920 * 0.00577 / sqrt(3) = -1.307 points, rounded up.
        ([0.0, 0.0, -0.01], [0.0] * 3, "a loss of more than 1.31 points"),
    ],
)
def test_what_is_ruled_out_is_said_in_words(one, other, words):
    found = difference(by_seed(one), by_seed(other))
    assert found.ruled_out() == words
    nothing = words.startswith("no interval")
    assert math.isnan(found.p) == math.isnan(found.loss_bound) == nothing
    assert math.isnan(found.mean) == (not one)


def test_the_bound_is_below_the_true_difference_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(-0.01, 0.01, size=(1000, 5))
    found = [difference(by_seed(row), by_seed([0.0] * 5)) for row in draws]
    assert np.mean([f.bound < -0.01 for f in found]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("bad", [{"level": 95}, {"values": {0: math.nan}}])
def test_a_difference_refuses_what_estimate_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        difference(**{"values": {0: 1.0}, "reference": {0: 1.0}, **bad})


def test_holm_by_hand():
    # In ascending order times 3, 2, 1, and never below the one before.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])


def test_what_was_not_tested_does_not_count_in_holm():
    found = holm([0.01, math.nan, 0.04])
    assert found[0] == pytest.approx(0.02) and found[2] == pytest.approx(0.04)
    assert math.isnan(found[1])
    assert all(map(math.isnan, holm([math.nan, math.nan]))) and holm([]) == []
