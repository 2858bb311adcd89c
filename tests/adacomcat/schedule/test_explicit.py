import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adacomcat.schedule import Explicit
from adacomcat.testing.schedules import ScheduleConformance


class TestConformance(ScheduleConformance):
    configs = [
        {"kind": "explicit", "epochs": []},
        {"kind": "explicit", "epochs": [7, 3, 3]},
        {"kind": "explicit", "epochs": [0, 39]},
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 60)))
def test_due_exactly_where_listed(epochs):
    schedule = Explicit(epochs=epochs)
    assert [epoch for epoch in range(61) if schedule.due(epoch)] == sorted(set(epochs))
    assert schedule.config() == {"kind": "explicit", "epochs": sorted(set(epochs))}
    assert schedule.interval is None


@pytest.mark.parametrize("epochs", [[-1], [1.0], [True], ["3"], 3, "12", None])
def test_refused_epochs_are_named(epochs):
    with pytest.raises(ValueError, match=r"schedule\.epochs(\.0)?: got"):
        Explicit(epochs=epochs)
