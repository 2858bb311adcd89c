"""Structure: of a study of four methods whose trials have not trained."""

import json

import pytest

from analysis import fig_methods
from study.execution.body import untrained
from study.spec.catalog import load_experiment
from study.spec.expand import expand
from study.spec.schema import Experiment
from study.store import Results, TraceWriter

SMALL = {"model.options.depth": 4, "data.options.images": 400}


@pytest.fixture
def study(tmp_path):
    """One budget of `methods_compared` on made-up images, two seeds, every trial at its default."""
    whole = load_experiment("methods_compared", "synthetic", 2, SMALL)
    arms = tuple(arm for arm in whole.arms if arm.name.endswith("_30"))
    experiment = Experiment(**{**dict(whole), "arms": arms})
    results = Results(tmp_path / "study")
    results.begin(experiment, command="none", provenance={})
    for spec in expand(experiment):
        results.add(spec)
        trial = untrained(spec.trial_config())
        plan = trial.method.default_plan(trial.budget)
        summary = {
            "test_acc": 0.5,
            "searches": 0,
            "params": 1,
            "macs": 1,
            "plan": dict(plan.decisions),
            "search_s": 0.0,
            "rebuild_s": 0.0,
            "dense_test_acc": 0.5,
            "dense_params": 1,
            "dense_macs": 1,
        }
        writer = TraceWriter(results.folder(spec.trial_id))
        writer.epoch({"phase": "search", "epoch": 0, "step_epoch": 0, "searches": 0})
        writer.close()
        results.update(spec.trial_id, "finished", summary=summary)
    return results


def measure(run, results, *flags):
    done = run("methods_speed", results.root, "--threads", 1, "--repeats", 3, *flags)
    assert done.returncode == 0, done.stderr
    return json.loads((results.root / "speed.json").read_text()) | {"printed": done.stdout}


def test_every_finished_trial_has_a_speed_that_the_figure_reads(run, study):
    found = measure(run, study, "--batch-size", 2)
    assert found["benchmark"] == "methods_speed" and found["settings"]["batch_size"] == 2
    records = study.trials()
    assert found["trials"].keys() == {record["trial_id"] for record in records}
    for arm in {record["arm"] for record in records}:
        # Both seeds have the same plan, so that one model is measured.
        one, other = (found["trials"][r["trial_id"]] for r in records if r["arm"] == arm)
        assert one == other
        assert one["quartiles"][0] <= one["images_per_s"] <= one["quartiles"][1]
    # The searched and the uniform arm of tokens have the same default plan, too.
    speeds = {tuple(speed["quartiles"]) for speed in found["trials"].values()}
    assert len(speeds) == 3
    assert found["dense"]["over_dense"] == 1
    assert "x1.00" in found["printed"]
    table = fig_methods.data(study.root).set_index("arm")
    ids = {record["arm"]: record["trial_id"] for record in records}
    for arm, trial_id in ids.items():
        expected = found["trials"][trial_id]["images_per_s"]
        assert table.loc[arm, "images_per_s"] == pytest.approx(expected)
    assert table.loc["dense", "images_per_s"] == found["dense"]["images_per_s"]
    assert table.loc["both_30", "measured"].startswith("batch 2, float32, ")


def test_a_study_without_finished_trials_is_one_line(run, study, tmp_path):
    for record in study.trials():
        study.update(record["trial_id"], "failed", summary=None)
    done = run("methods_speed", study.root)
    assert done.returncode == 1
    assert done.stderr == f"error: {study.root}: finished trials: got 0, allowed: 1 or more\n"
    done = run("methods_speed", tmp_path)
    assert done.returncode == 1 and "study.json" in done.stderr
