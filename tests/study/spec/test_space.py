from collections import Counter
from typing import Any

import optuna
import pytest

from study.spec.exploration import Dimension
from study.spec.space import quasi_random, settings, suggest

SPACE = (
    Dimension(name="growth", setting="schedule.growth", kind="float", low=1.0, high=4.0),
    Dimension(name="divide", kind="choice", choices=(False, True)),
    Dimension(
        name="shrink",
        setting="schedule.shrink",
        kind="float",
        low=1.0,
        high=100.0,
        log=True,
        when={"divide": True},
    ),
    Dimension(name="warmup", setting="schedule.warmup", kind="int", low=1, high=8),
    Dimension(name="due", setting="schedule.due", kind="choice", choices=("modulo", "elapsed")),
)


@pytest.mark.parametrize(
    "params",
    [
        {"growth": 2.5, "divide": True, "shrink": 3.0, "warmup": 2, "due": "elapsed"},
        {"growth": 1.0, "divide": False, "warmup": 8, "due": "modulo"},
    ],
)
def test_a_trial_is_asked_for_what_exists_and_nothing_else(params: dict[str, Any]) -> None:
    trial = optuna.trial.FixedTrial(params | {"shrink": 3.0})
    assert suggest(SPACE, trial) == params
    assert trial.params == params


def test_what_optuna_is_told_of_the_space() -> None:
    trial = optuna.create_study().ask()
    suggest(SPACE, trial)
    kinds = optuna.distributions
    expected: dict[str, kinds.BaseDistribution] = {
        "growth": kinds.FloatDistribution(1.0, 4.0),
        "divide": kinds.CategoricalDistribution((False, True)),
        "shrink": kinds.FloatDistribution(1.0, 100.0, log=True),
        "warmup": kinds.IntDistribution(1, 8),
        "due": kinds.CategoricalDistribution(("modulo", "elapsed")),
    }
    if not trial.params["divide"]:
        expected.pop("shrink")
    assert trial.distributions == expected


def test_settings_leave_switches_out_and_let_the_later_dimension_win() -> None:
    rule = Dimension(
        name="rule", setting="schedule.shrink", kind="choice", choices=("reset", "divide")
    )
    divisor = Dimension(
        name="divisor",
        setting="schedule.shrink",
        kind="float",
        low=1.5,
        high=4.0,
        when={"rule": "divide"},
    )
    space = (*SPACE[:2], rule, divisor)
    params = {"growth": 2.0, "divide": False, "rule": "reset"}
    assert settings(space, params) == {"schedule.growth": 2.0, "schedule.shrink": "reset"}
    params |= {"rule": "divide", "divisor": 3.0}
    assert settings(space, params) == {"schedule.growth": 2.0, "schedule.shrink": 3.0}


def test_quasi_random_points_are_points_of_the_space() -> None:
    for point in quasi_random(SPACE, 32, seed=3):
        assert suggest(SPACE, optuna.trial.FixedTrial(point)) == point


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_parameter_is_spread_evenly_by_itself(seed: int) -> None:
    points = quasi_random(SPACE, 16, seed)
    sixteenths = sorted(int((point["growth"] - 1) / 3 * 16) for point in points)
    assert sixteenths == list(range(16))
    assert Counter(point["divide"] for point in points) == {False: 8, True: 8}
    assert Counter(point["due"] for point in points) == {"modulo": 8, "elapsed": 8}
    assert Counter(point["warmup"] for point in points) == dict.fromkeys(range(1, 9), 2)


def test_a_logarithmic_parameter_is_spread_over_its_orders_of_magnitude() -> None:
    shrink = [p["shrink"] for p in quasi_random(SPACE, 64, seed=0) if "shrink" in p]
    assert len(shrink) == 32
    below = sum(value < 10 for value in shrink)
    assert abs(below - 16) <= 4


def test_fewer_points_are_the_first_of_more() -> None:
    many = quasi_random(SPACE, 20, seed=5)
    for count in (0, 1, 3, 8, 9):
        assert quasi_random(SPACE, count, seed=5) == many[:count]
    assert quasi_random(SPACE, 3, seed=6) != many[:3]
