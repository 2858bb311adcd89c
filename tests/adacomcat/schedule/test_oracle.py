import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adacomcat.plan import Plan
from adacomcat.schedule import Fixed, best_epochs, regret, stale_distance
from adacomcat.schedule.oracle import oracle


def plans_of(*ranks, first=1):
    return {
        first + i: Plan("lowrank", {"a": r[0], "b": r[1]} if isinstance(r, tuple) else {"a": r})
        for i, r in enumerate(ranks)
    }


def total(plans, chosen):
    """The stale distance, epoch by epoch, by looking the last search up."""
    distances = []
    for epoch, proposed in plans.items():
        past = [e for e in chosen if e <= epoch]
        distances.append(plans[max(past)].distance(proposed) if past else 1.0)
    return sum(distances)


def brute_force(plans, searches):
    return min(itertools.combinations(plans, searches), key=lambda chosen: total(plans, chosen))


ranks = st.tuples(st.none() | st.integers(1, 6), st.none() | st.integers(1, 6))
# Dense or not: distances are 0, 1/2 or 1, whose sums have no rounding, so that ties are ties.
coarse = st.tuples(st.sampled_from([None, 4]), st.sampled_from([None, 4]))


@settings(max_examples=60, deadline=None)
@given(st.lists(ranks, min_size=1, max_size=8), st.integers(0, 3), st.data())
def test_cost_equals_best_of_all_subsets(ranks, first, data):
    plans = plans_of(*ranks, first=first)
    epochs = first + len(ranks)
    searches = data.draw(st.integers(1, len(ranks)))
    chosen = best_epochs(plans, searches, epochs)
    assert len(chosen) == searches and chosen == sorted(set(chosen)) and set(chosen) <= set(plans)
    best = total(plans, brute_force(plans, searches))
    assert total(plans, chosen) == pytest.approx(best, abs=1e-12)
    assert stale_distance(plans, chosen, epochs) == pytest.approx(best, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(coarse, min_size=1, max_size=8), st.data())
def test_ties_go_to_the_earliest(ranks, data):
    plans = plans_of(*ranks)
    searches = data.draw(st.integers(1, len(ranks)))
    # combinations come in lexicographic order and min keeps the first.
    expected = brute_force(plans, searches)
    assert best_epochs(plans, searches, len(ranks) + 1) == list(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(ranks, min_size=1, max_size=8), st.data())
def test_regret_is_what_the_best_subset_saves(ranks, data):
    plans, epochs = plans_of(*ranks), len(ranks) + 1
    searched = data.draw(st.sets(st.sampled_from(sorted(plans)), min_size=1))
    best = brute_force(plans, len(searched))
    saved = total(plans, sorted(searched)) - total(plans, best)
    assert regret(plans, searched, epochs) == pytest.approx(saved, abs=1e-12)
    assert regret(plans, searched, epochs) >= 0
    assert regret(plans, best_epochs(plans, len(searched), epochs), epochs) == 0.0


def test_change_is_where_the_oracle_searches():
    plans = plans_of(8, 8, 8, 8, 2, 2, 2, 4, 4)
    assert best_epochs(plans, 1, 10) == [1]
    assert best_epochs(plans, 2, 10) == [1, 5]
    assert best_epochs(plans, 3, 10) == [1, 5, 8]
    # 8 is held for 3 epochs of 2 (distance 3/4) and 2 of 4 (1/2).
    assert stale_distance(plans, [1], 10) == 3 * 0.75 + 2 * 0.5
    assert stale_distance(plans, [], 10) == 9
    assert regret(plans, [1, 2], 10) == 3 * 0.75 + 2 * 0.5 - 2 * 0.5


def test_oracle_is_an_explicit_schedule():
    plans = plans_of(8, 8, 2, 2)
    schedule = oracle(plans, 2, 5)
    assert schedule.config() == {"kind": "explicit", "epochs": [1, 3]}
    assert [epoch for epoch in range(5) if schedule.due(epoch)] == [1, 3]


def test_every_epoch_is_the_only_choice_of_as_many():
    plans = plans_of(3, 9, 5, 1)
    every = [epoch for epoch in range(5) if Fixed().due(epoch)]
    assert best_epochs(plans, 4, 5) == every
    assert stale_distance(plans, every, 5) == 0


@pytest.mark.parametrize("searches", [0, -1, 5, 2.0, True])
def test_impossible_number_of_searches(searches):
    with pytest.raises(ValueError, match=r"searches: got .*from 1 to the 4 recorded plans"):
        best_epochs(plans_of(1, 2, 3, 4), searches, 5)


def test_missing_plans_are_named():
    plans = plans_of(1, 2, 3, 4)
    del plans[3]
    with pytest.raises(ValueError, match=r"plans: .*\[3, 5\].*every epoch from 1 to 5"):
        best_epochs(plans, 1, 6)
    with pytest.raises(ValueError, match="plans: got 'none'"):
        best_epochs({}, 1, 6)
    with pytest.raises(ValueError, match="plans: .*epochs from 0 to 2"):
        best_epochs(plans_of(1, 2, 3), 1, 3)


def test_search_without_a_recorded_plan_is_named():
    with pytest.raises(ValueError, match=r"searched: got \[0\].*from 1 to 3"):
        regret(plans_of(1, 2, 3), [0, 2], 4)
    with pytest.raises(ValueError, match="searches: got 0"):
        regret(plans_of(1, 2, 3), [], 4)
