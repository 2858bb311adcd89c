import pytest

from adacomcat.schedule import Fixed, Never, Once
from adacomcat.testing.schedules import ScheduleConformance


class TestConformance(ScheduleConformance):
    configs = [
        {"kind": "fixed"},
        {"kind": "fixed", "every": 4, "start": 3},
        {"kind": "once"},
        {"kind": "once", "at": 7},
        {"kind": "never"},
    ]


def epochs_of(schedule, epochs=30):
    return [epoch for epoch in range(epochs) if schedule.due(epoch)]


@pytest.mark.parametrize("every", [1, 2, 4, 8, 100])
@pytest.mark.parametrize("start", [1, 3, 29, 40])
def test_fixed_is_an_arithmetic_progression(every, start):
    schedule = Fixed(every=every, start=start)
    assert epochs_of(schedule) == list(range(start, 30, every))
    assert schedule.interval == every


def test_every_epoch_of_30_is_29_searches():
    assert len(epochs_of(Fixed())) == 29


def test_once_and_never():
    assert epochs_of(Once()) == [1]
    assert epochs_of(Once(at=5)) == [5]
    assert epochs_of(Never()) == []
    assert Once().interval is None and Never().interval is None


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_refused_coefficients_are_named(value):
    for kind, name in ((Fixed, "every"), (Fixed, "start"), (Once, "at")):
        with pytest.raises(ValueError, match=rf"schedule\.{name}: got .*, allowed: "):
            kind(**{name: value})
