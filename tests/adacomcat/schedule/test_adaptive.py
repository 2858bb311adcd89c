import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adacomcat.plan import Plan
from adacomcat.schedule import Adaptive, build_schedule
from adacomcat.testing.golden import reference_rows
from adacomcat.testing.schedules import ScheduleConformance

coefficients = st.fixed_dictionaries(
    {
        "growth": st.floats(1, 8),
        "shrink": st.just("reset") | st.floats(1.001, 8),
        "tolerance": st.floats(0, 0.5),
        "max_interval": st.none() | st.floats(1, 20),
        "warmup": st.integers(1, 10),
        "due": st.sampled_from(["modulo", "elapsed"]),
    }
)
distances = st.lists(st.just(0.0) | st.floats(0, 1), min_size=40, max_size=40)


class TestConformance(ScheduleConformance):
    configs = [
        {"kind": "adaptive"},
        {"kind": "adaptive", "growth": 1.5, "due": "elapsed", "max_interval": 6},
        {"kind": "adaptive", "shrink": 2, "tolerance": 0.2, "warmup": 5},
        {"kind": "adaptive", "growth": 1},
    ]


def run(schedule, distances):
    """The searched epochs, and the interval after each epoch."""
    searched, intervals = [], []
    for epoch, distance in enumerate(distances):
        if schedule.due(epoch):
            schedule.observe(epoch, distance if searched else None)
            searched.append(epoch)
        intervals.append(schedule.interval)
    return searched, intervals


def test_published_run_is_reproduced():
    trace = reference_rows("published_deit_small_trace.csv")
    ranks = {}
    for row in reference_rows("published_deit_small_ranks.csv"):
        site = f"blocks.{row['block']}.{row['kind']}" if row["block"] else row["kind"]
        ranks.setdefault(int(row["epoch"]), {})[site] = int(row["rank"])
    plans = {epoch: Plan("lowrank", decisions) for epoch, decisions in ranks.items()}

    schedule, in_force, searched = Adaptive(), None, []
    for row in trace:
        epoch = int(row["epoch"])
        assert schedule.due(epoch) == (row["searched"] == "1")
        if schedule.due(epoch):
            plan = plans[epoch]
            assert len(plan.decisions) == 49
            if in_force is not None:
                assert len(plan.changed(in_force)) == int(row["sites_changed"])
            schedule.observe(epoch, None if in_force is None else plan.distance(in_force))
            searched.append(epoch)
            in_force = plan
        assert schedule.interval == int(row["interval"])
    assert len(trace) == 30
    assert searched == [1, 2, 3, 4, 8, 16]


def test_docstring_example():
    # The search of epoch 2 alone changes the plan.
    distances = [0.0, 0.0, 0.1] + [0.0] * 37
    searched, intervals = run(Adaptive(), distances)
    assert searched == [1, 2, 3, 4, 8, 16, 32]
    assert intervals[:9] == [1, 1, 1, 2, 4, 4, 4, 4, 8]
    assert run(Adaptive(due="elapsed"), distances[:30])[0] == [1, 2, 3, 5, 9, 17]


def test_epoch_of_a_change_starts_again():
    assert run(Adaptive(), [0.0] * 16 + [0.5] + [0.0] * 8)[0] == [1, 2, 4, 8, 16, 17, 18, 20, 24]


def test_shrink_divides_and_stops_at_1():
    schedule = Adaptive(growth=3, shrink=2)
    schedule.observe(1, 0.0)
    schedule.observe(2, 0.0)
    assert schedule.interval == 9
    seen = []
    for epoch in range(3, 8):
        schedule.observe(epoch, 1.0)
        seen.append(schedule.interval)
    assert seen == [4.5, 2.25, 1.125, 1, 1]


def test_tolerance_includes_its_bound():
    for distance, interval in ((0.25, 2), (0.2500001, 1)):
        schedule = Adaptive(tolerance=0.25)
        schedule.observe(1, distance)
        assert schedule.interval == interval


def test_first_search_leaves_the_interval():
    schedule = Adaptive()
    schedule.observe(1, None)
    assert schedule.interval == 1


def test_interval_stays_finite_and_json_able():
    schedule = Adaptive(growth=1e300)
    for epoch in range(1, 5):
        schedule.observe(epoch, 0.0)
    assert math.isfinite(schedule.interval)
    json.dumps(schedule.state_dict(), allow_nan=False)
    assert not schedule.due(10**6)


@settings(deadline=None)
@given(coefficients, distances)
def test_interval_follows_the_recurrence(values, distances):
    """Against the rule written out again, with the epochs looked up in what was recorded."""
    searched, intervals = run(Adaptive(**values), distances)
    expected = 1.0
    for epoch in searched[1:]:
        if distances[epoch] <= values["tolerance"]:
            expected *= values["growth"]
            if values["max_interval"] is not None and expected > values["max_interval"]:
                expected = values["max_interval"]
        elif values["shrink"] == "reset":
            expected = 1.0
        else:
            expected = max(expected / values["shrink"], 1.0)
        assert intervals[epoch] == expected
    for epoch in range(40):
        before = intervals[epoch - 1] if epoch else 1.0
        if epoch not in searched:
            assert intervals[epoch] == before
        past = [e for e in searched if e < epoch]
        if values["due"] == "modulo":
            expected_due = epoch % int(before) == 0
        else:
            expected_due = not past or epoch >= past[-1] + int(before)
        assert (epoch in searched) == (epoch >= values["warmup"] and expected_due)


@settings(deadline=None)
@given(coefficients, distances)
def test_invariants(values, distances):
    schedule = build_schedule({"kind": "adaptive", **values})
    searched, intervals = run(schedule, distances)
    cap = values["max_interval"] or math.inf
    assert all(1 <= interval <= max(cap, 1) for interval in intervals)
    assert all(epoch >= values["warmup"] for epoch in searched)
    assert build_schedule(schedule.config()).config() == schedule.config()


@settings(deadline=None)
@given(coefficients)
def test_plans_that_always_change_are_searched_every_epoch(values):
    searched, _ = run(Adaptive(**values | {"tolerance": 0.0}), [1.0] * 40)
    assert searched == list(range(values["warmup"], 40))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("growth", [0.99, 0, -2, math.nan, math.inf, "2", True, None]),
        ("shrink", [1, 0.5, -2, math.nan, math.inf, "Reset", None, True]),
        ("tolerance", [-1e-9, math.nan, math.inf, "0", None]),
        ("max_interval", [0.5, 0, -1, math.nan, math.inf, "8"]),
        ("warmup", [0, -1, 1.0, True, None]),
        ("due", ["modulus", None, 1]),
    ],
)
def test_refused_coefficients_are_named(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"schedule\.{name}: got "):
            Adaptive(**{name: value})
        with pytest.raises(ValueError, match=rf"schedule\.{name}: got "):
            build_schedule({"kind": "adaptive", name: value})
