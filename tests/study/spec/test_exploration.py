from typing import Any

import pytest

from study.spec.exploration import Dimension, Exploration, early_rungs

SWITCH = {"name": "capped", "kind": "choice", "choices": (False, True)}
CAP = {
    "name": "cap",
    "setting": "schedule.max_interval",
    "kind": "int",
    "low": 2,
    "high": 9,
    "when": {"capped": True},
}
GROWTH = {"name": "growth", "setting": "schedule.growth", "kind": "float", "low": 1.0, "high": 4.0}


def explore(*space: dict[str, Any], **fields: Any) -> Exploration:
    fixed = {"objectives": ("val_acc",), "samples": 3}
    return Exploration(space=tuple(Dimension(**entry) for entry in space), **(fixed | fields))


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (GROWTH | {"low": 4.0}, "space.growth.low: got 4.0"),
        (GROWTH | {"low": 0.0, "log": True}, "space.growth.low: got 0.0"),
        (GROWTH | {"high": float("inf")}, "space.growth.high: got inf"),
        (GROWTH | {"setting": None}, "space.growth.setting: got None"),
        (GROWTH | {"choices": (1, 2)}, "space.growth.choices"),
        (CAP | {"low": 1.5}, "space.cap.low: got 1.5"),
        (SWITCH | {"choices": (True,)}, "space.capped.choices"),
        (SWITCH | {"choices": (1, True)}, "space.capped.choices"),
        (SWITCH | {"choices": ((1, 2), (3, 4))}, "space.capped.choices"),
        (SWITCH | {"low": 1.0}, "space.capped"),
    ],
)
def test_a_wrong_dimension_is_refused_by_name(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Dimension(**entry)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("space", "fields", "named"),
    [
        ([], {}, "space: got ()"),
        ([GROWTH, GROWTH], {}, "space: got 'growth'"),
        ([GROWTH], {"objectives": ("val_acc", "val_acc")}, "objectives"),
        ([GROWTH], {"objectives": ("val_ac",)}, "did you mean 'val_acc'"),
        ([GROWTH], {"objectives": ()}, "objectives: got ()"),
        ([GROWTH], {"samples": 0}, "samples: got 0"),
        ([GROWTH], {"start": -1}, "start: got -1"),
        ([CAP, SWITCH], {}, "space.cap.when: got 'capped'"),
        ([SWITCH, CAP | {"when": {"capped": "yes"}}], {}, "space.cap.when.capped: got 'yes'"),
        ([GROWTH, CAP | {"when": {"growth": 2.0}}], {}, "space.cap.when.growth"),
        ([GROWTH, SWITCH], {}, "space.capped.setting"),
        ([GROWTH], {"points": {"usual": {"grow": 2.0}}}, "points.usual: got 'grow'"),
        ([GROWTH], {"points": {"usual": {"growth": 5.0}}}, "points.usual.growth: got 5.0"),
        ([GROWTH], {"points": {"usual": {"growth": True}}}, "points.usual.growth: got True"),
        ([GROWTH], {"points": {"usual": {}}}, "points.usual.growth: got 'nothing'"),
        ([SWITCH, CAP], {"points": {"usual": {"capped": True}}}, "points.usual.cap"),
        ([SWITCH, CAP], {"points": {"usual": {"capped": True, "cap": 2.5}}}, "usual.cap: got 2.5"),
        ([SWITCH, CAP], {"points": {"usual": {"capped": False, "cap": 3}}}, "usual.cap: got 3"),
    ],
)
def test_a_wrong_exploration_is_refused_by_name(
    space: list[dict[str, Any]], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        explore(*space, **fields)
    assert named in str(refusal.value)


def test_a_point_may_be_anywhere_in_the_space_bounds_included() -> None:
    points = {"low": {"capped": True, "cap": 2}, "high": {"capped": True, "cap": 9.0}}
    assert explore(SWITCH, CAP, points=points).points == points


def test_rungs_halve() -> None:
    assert early_rungs(24) == (6, 10, 14)
    assert early_rungs(8) == (2, 3, 4)
    assert early_rungs(5) == (1, 2)
