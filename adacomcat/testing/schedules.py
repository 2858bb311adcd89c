"""Conformance tests for schedules."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from adacomcat.schedule import Explicit, Schedule, build_schedule

EPOCHS = 40

Step = tuple[bool, float | None]
"""Whether an epoch searched, and the interval after it."""


class ScheduleConformance:
    """Inherit as `class TestMine(ScheduleConformance)` and list configurations to try.

    Needs pytest, which makes one test of each rule and configuration.
    """

    configs: ClassVar[Sequence[Mapping[str, Any]]]
    """Configuration for `build_schedule`."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Give each rule each configuration, under every one of a few random distances."""
        if "config" in metafunc.fixturenames:
            metafunc.parametrize("config", self.configs, ids=str)
        if "seed" in metafunc.fixturenames:
            metafunc.parametrize("seed", range(4))

    def test_config_survives_json(self, config: Mapping[str, Any]) -> None:
        schedule = build_schedule(config)
        written = json.loads(json.dumps(schedule.config()))
        assert set(config) <= set(written)
        assert build_schedule(written) == schedule
        assert build_schedule(written).config() == schedule.config()

    def test_due_is_pure(self, config: Mapping[str, Any], seed: int) -> None:
        schedule, untouched = build_schedule(config), build_schedule(config)
        distances = random_distances(seed)
        for epoch in range(EPOCHS):
            before = schedule.state_dict()
            # Asked about every epoch, in any order, before the one that counts.
            for other in reversed(range(EPOCHS)):
                schedule.due(other)
            assert schedule.state_dict() == before
            step = advance(schedule, epoch, distances)
            assert step == advance(untouched, epoch, distances)

    def test_same_distances_same_searches(self, config: Mapping[str, Any], seed: int) -> None:
        first = follow(build_schedule(config), random_distances(seed))
        assert follow(build_schedule(config), random_distances(seed)) == first

    def test_resume_equals_straight_run(self, config: Mapping[str, Any], seed: int) -> None:
        distances = random_distances(seed)
        straight = build_schedule(config)
        steps = follow(straight, distances)
        for stop in range(EPOCHS + 1):
            first = build_schedule(config)
            head = follow(first, distances, stop=stop)
            resumed = build_schedule(config)
            resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
            assert head + follow(resumed, distances, start=stop) == steps
            assert resumed.state_dict() == straight.state_dict()

    def test_state_of_another_kind_is_refused(self, config: Mapping[str, Any]) -> None:
        schedule = build_schedule(config)
        before = schedule.state_dict()
        for state in (before | {"kind": "another"}, before | {"more": 1}, {"kind": schedule.kind}):
            try:
                schedule.load_state_dict(state)
            except ValueError as error:
                assert "schedule.state" in str(error)
            else:
                raise AssertionError(f"{schedule.kind} took the state {state}")
            assert schedule.state_dict() == before

    def test_epoch_0_only_where_listed(self, config: Mapping[str, Any]) -> None:
        schedule = build_schedule(config)
        listed = isinstance(schedule, Explicit) and 0 in schedule.epochs
        assert schedule.due(0) == listed

    def test_interval_is_an_epoch_or_more(self, config: Mapping[str, Any], seed: int) -> None:
        schedule = build_schedule(config)
        intervals = [schedule.interval]
        intervals += [interval for _, interval in follow(schedule, random_distances(seed))]
        assert all(interval is None or interval >= 1 for interval in intervals)

    def test_unknown_coefficient_is_named(self, config: Mapping[str, Any]) -> None:
        try:
            build_schedule({**config, "no_such_coefficient": 1})
        except ValueError as error:
            assert "schedule.no_such_coefficient" in str(error)
        else:
            raise AssertionError("an unknown coefficient was taken")


def random_distances(seed: int) -> list[float]:
    """One plan distance an epoch; half of them 0, as when a search confirms the plan."""
    source = random.Random(seed)
    return [source.choice((0.0, source.random())) for _ in range(EPOCHS)]


def follow(
    schedule: Schedule, distances: Sequence[float], *, start: int = 0, stop: int | None = None
) -> list[Step]:
    """Run a schedule over epochs `start` to `stop`, searching when one is due."""
    stop = len(distances) if stop is None else stop
    return [advance(schedule, epoch, distances) for epoch in range(start, stop)]


def advance(schedule: Schedule, epoch: int, distances: Sequence[float]) -> Step:
    """Run one epoch: the first search has no plan to compare with, each later one a distance."""
    searched = schedule.due(epoch)
    if searched:
        first = schedule.last_search is None
        schedule.observe(epoch, None if first else distances[epoch])
    return searched, schedule.interval
