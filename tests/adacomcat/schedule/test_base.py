import pytest

from adacomcat.schedule import Adaptive, Explicit, Fixed, Never, Once, build_schedule


@pytest.mark.parametrize(
    ("config", "schedule"),
    [
        ({"kind": "fixed"}, Fixed(every=1, start=1)),
        ({"kind": "fixed", "every": 8, "start": 2}, Fixed(every=8, start=2)),
        ({"kind": "once", "at": 5}, Once(at=5)),
        ({"kind": "never"}, Never()),
        ({"kind": "explicit", "epochs": [3, 1]}, Explicit(epochs=[1, 3])),
        ({"kind": "adaptive", "due": "elapsed"}, Adaptive(due="elapsed")),
    ],
)
def test_each_kind_is_built_by_name(config, schedule):
    built = build_schedule(config)
    assert type(built) is type(schedule)
    assert built == schedule


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"schedule\.kind: got None, allowed: adaptive, explicit, fixed, never, once$"),
        ({"kind": 3}, r"schedule\.kind: got 3, allowed: adaptive"),
        ({"kind": "adaptve"}, r"schedule\.kind: got 'adaptve' \(did you mean 'adaptive'\?\)"),
        ({"kind": "adaptive", "grow": 2}, r"schedule\.grow: .*did you mean 'growth'"),
        ({"kind": "fixed", "growth": 2}, r"schedule\.growth: .*allowed: every, start"),
        ({"kind": "never", "at": 2}, r"schedule\.at: .*allowed: nothing"),
        ({"kind": "explicit"}, r"schedule\.epochs: got nothing, allowed: a value"),
        ({"kind": "fixed", "last_search": 3}, r"schedule\.last_search"),
    ],
)
def test_unknown_and_missing_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        build_schedule(config)


def test_search_that_goes_back_in_time_is_refused():
    schedule = Fixed()
    schedule.observe(3, None)
    for epoch in (2, 3):
        with pytest.raises(ValueError, match=r"schedule\.observe\.epoch.*at 3"):
            schedule.observe(epoch, 0.0)
    schedule.observe(4, 0.0)


@pytest.mark.parametrize("distance", [-0.1, float("nan")])
def test_distance_that_is_none_is_refused(distance):
    schedule = Adaptive()
    with pytest.raises(ValueError, match=r"schedule\.observe\.distance"):
        schedule.observe(1, distance)
    assert schedule == Adaptive()
