"""Turns and medians on a clock of our own; nothing here depends on how fast the machine is."""

import gc

import numpy as np
import pytest

from adacomcat import timing
from adacomcat.timing import Times, take_turns


class Machine:
    """A clock that only calls move on: the n-th by n times what its variant says."""

    def __init__(self, monkeypatch):
        self.now, self.called, self.collects = 0.0, [], []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def variant(self, name, seconds):
        def call():
            self.now += seconds * (1 + len(self.called))
            self.called.append(name)
            self.collects.append(gc.isenabled())

        return call


def test_each_has_its_turn_and_the_first_calls_do_not_count(monkeypatch):
    machine = Machine(monkeypatch)
    variants = {name: machine.variant(name, s) for name, s in (("a", 1), ("b", 10), ("c", 100))}
    found = take_turns(variants, repeats=4, warm_up=2, at_least_s=0)
    assert "".join(machine.called) == "aabbcc" + "abc" + "bca" + "cab" + "abc"
    # No collection falls into a round.
    assert not any(machine.collects[6:]) and gc.isenabled()
    # The n-th call takes n times as long.
    assert found["a"].seconds == (7, 12, 14, 16)
    ratios = (90 / 8, 110 / 10, 130 / 15, 180 / 17)
    assert found["c"].over(found["b"]).seconds == pytest.approx(ratios)


def test_fast_calls_are_repeated_in_a_stretch(monkeypatch):
    machine = Machine(monkeypatch)

    def call():
        machine.now += 0.25
        machine.called.append("x")

    found = take_turns({"x": call}, repeats=3, warm_up=1, at_least_s=1)
    assert len(machine.called) == 1 + 3 * 4
    assert found["x"].seconds == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("seconds", [(3.0,), (1.0, 5.0), (4.0, 1.0, 2.0, 8.0, 7.5)])
def test_median_and_quartiles(seconds):
    times = Times(seconds)
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    assert (times.median, *times.quartiles) == pytest.approx((middle, low, high))
    assert times.to_json() == {
        "median_s": times.median,
        "q1_s": low,
        "q3_s": high,
        "seconds": list(seconds),
    }
