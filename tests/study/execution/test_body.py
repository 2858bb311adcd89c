import shutil
from pathlib import Path
from typing import Any

import pytest

import adacomcat
from adacomcat.config import PhaseConfig
from adacomcat.cost import count_params
from adacomcat.data import build_splits, make_loader
from adacomcat.overrides import build_config
from adacomcat.training.epoch import evaluate
from study.execution.body import prepare_dense, restore_trace
from study.execution.placement import Placement
from study.execution.trial import Job, run_arm
from study.refusals import check_buildable
from study.spec.expand import expand
from study.spec.schema import Experiment, Workload
from study.store import Results


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


def test_a_finished_trial_is_a_model_that_loads(
    tmp_path: Path, dense_cache: Path, tiny_experiment: Experiment
) -> None:
    """The model is the one that the summary speaks of, and its images are described."""
    spec = expand(tiny_experiment)[0]
    results = Results(tmp_path)
    results.add(spec)
    job = Job(str(tmp_path), str(dense_cache), Placement("tune", 1, 1.0, 0.0, 1), {})
    run_arm([spec.trial_id], job, lambda row: None)
    folder, record = results.folder(spec.trial_id), results.trial(spec.trial_id)
    assert record is not None and record["status"] == "finished", record
    model = adacomcat.load(folder)
    assert count_params(model) == record["summary"]["params"]
    splits = build_splits(spec.trial_config().data)
    assert model.pretrained_cfg["label_names"] == splits.classes
    loader = make_loader(splits.test, spec.trial_config().data, batch_size=256, seed=0, train=False)
    accuracy, loss = evaluate(model, loader, PhaseConfig())
    assert accuracy == record["summary"]["test_acc"]
    assert loss == pytest.approx(record["summary"]["test_loss"], rel=1e-5)


@pytest.mark.parametrize("damage", ["", "short", '{"step_epoch": 0}\nnonsense\n'])
def test_lost_rows_of_an_ended_trial_come_back_from_its_checkpoint(
    tmp_path: Path, dense_cache: Path, tiny_experiment: Experiment, damage: str
) -> None:
    spec = expand(tiny_experiment)[0]
    results = Results(tmp_path)
    results.add(spec)
    job = Job(str(tmp_path), str(dense_cache), Placement("tune", 1, 1.0, 0.0, 1), {})
    run_arm([spec.trial_id], job, lambda row: None)
    run = results.run(spec.trial_id)
    path = run.path / "epochs.jsonl"
    whole = path.read_bytes()
    path.write_text(path.read_text().partition("\n")[0] + "\n" if damage == "short" else damage)
    assert run.missing_rows()
    restore_trace(run)
    assert path.read_bytes() == whole and not run.missing_rows()
    path.write_text("")
    shutil.rmtree(run.path / "checkpoint")
    with pytest.raises(ValueError, match=rf"0 of 4 epochs, and .*; delete {run.path} to train"):
        restore_trace(run)
