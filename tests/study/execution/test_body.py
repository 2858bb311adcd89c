from pathlib import Path
from typing import Any

import pytest

from adacomcat.settings import build_config
from study.execution.body import check_buildable, prepare_dense
from study.spec.expand import expand
from study.spec.schema import Experiment, Workload


def test_the_dense_model_is_trained_once(tmp_path: Path, tiny_workload: Workload) -> None:
    config = build_config(tiny_workload.defaults)
    rows: list[dict[str, Any]] = []
    prepare_dense(config, tmp_path, "cpu", rows.append)
    prepare_dense(config, tmp_path, "cpu", rows.append)
    assert [(row["epoch"], row["epochs"]) for row in rows] == [(0, 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget.reduction": 0.999}, "budget.reduction: got 0.999, allowed: .*smallest reachable"),
        ({"method.spaec": "paper"}, "method.spaec: .*did you mean 'space'"),
        ({"method.name": "lowrnk"}, "method.name: .*did you mean 'lowrank'"),
        ({"model.name": "resnet"}, "model.name: got 'resnet'"),
        ({"data.name": "digit"}, "data.name: .*digits"),
        ({"schedule": {"kind": "once", "at": 9}}, "schedule: .*within the 3 epochs"),
    ],
)
def test_a_setting_that_the_engine_refuses_is_refused_before_any_trial(
    tiny_workload: Workload, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_buildable([build_config(tiny_workload.defaults, settings)])


def test_sound_trials_are_buildable_even_unresolved(tiny_experiment: Experiment) -> None:
    check_buildable([spec.trial_config() for spec in expand(tiny_experiment)])
