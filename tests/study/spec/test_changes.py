from collections.abc import Callable
from typing import Any

import pytest

from study.spec.catalog import load_experiment
from study.spec.changes import with_flags
from study.spec.exploration import Stopping
from study.spec.schema import Experiment

Make = Callable[..., Experiment]


@pytest.fixture
def grid() -> Experiment:
    return load_experiment("adaptive_vs_fixed", "synthetic", 2)


def test_a_changed_record_is_validated_like_a_new_one(exploration: Make) -> None:
    experiment = exploration()
    assert experiment.exploration is not None
    asked = experiment.exploration.replace(samples=9)
    assert asked == experiment.exploration.model_copy(update={"samples": 9})
    # What pydantic alone would copy unseen.
    for changes, message in (
        ({"samples": 0}, r"^samples: got 0, allowed: 1 or more$"),
        ({"samples": "x"}, r"^samples: got 'x', allowed: a whole number$"),
        (
            {"points": {"usual": {"growth": 9.0, "capped": False}}},
            r"^points.usual.growth: got 9.0, allowed: a number",
        ),
        ({"unknown": 1}, r"^unknown: got 'unknown', allowed: "),
    ):
        with pytest.raises(ValueError, match=message) as refusal:
            experiment.exploration.replace(**changes)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"^seeds: got \(0, 0\), allowed: each seed once$"):
        experiment.replace(seeds=(0, 0))


def test_widening_counts_seeds_from_zero_and_keeps_the_rest(
    exploration: Make, grid: Experiment
) -> None:
    experiment = exploration(seeds=(0,))
    assert with_flags(experiment) == experiment
    wide = with_flags(experiment, seeds=3, samples=20)
    assert wide.seeds == (0, 1, 2)
    assert wide.exploration is not None and wide.exploration.samples == 20
    assert wide == exploration(seeds=(0, 1, 2), samples=20)
    assert with_flags(grid, seeds=1) == grid.model_copy(update={"seeds": (0,)})


def test_an_exploration_is_steered_by_flags(exploration: Make) -> None:
    experiment = exploration()
    steered = with_flags(
        experiment, sampler="nsga2", objectives=" params, val_acc,searches", no_stopping=True
    )
    assert steered == exploration(
        sampler="nsga2", objectives=("params", "val_acc", "searches"), stopping=None
    )
    assert exploration().exploration.stopping == Stopping(rungs=(1, 2))  # It was there before.
    with pytest.raises(ValueError, match=r"^objectives: got 'val_ac' \(did you mean 'val_acc'"):
        with_flags(experiment, objectives="val_ac,searches")
    with pytest.raises(ValueError, match=r"^objectives: got \('params', 'params'\), allowed: each"):
        with_flags(experiment, objectives="params,params")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"samples": 5}, "--samples: got 5"),
        ({"sampler": "tpe"}, "--sampler: got 'tpe'"),
        ({"objectives": "val_acc"}, "--objectives: got ('val_acc',)"),
        ({"no_stopping": True}, "--no-stopping: got True"),
    ],
)
def test_a_grid_has_nothing_to_steer(
    grid: Experiment, change: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(ValueError) as caught:
        with_flags(grid, **change)
    expected = f"{refusal}, allowed: nothing: adaptive_vs_fixed is a grid, it explores nothing"
    assert str(caught.value) == expected
