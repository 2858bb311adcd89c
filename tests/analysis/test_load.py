import json

import pytest

from adacomcat.io.run import SCHEMA_VERSION
from analysis import load


def test_trials_are_one_row_each_in_the_order_of_arms_and_seeds(results):
    table = load.trials(results)
    expected = [(arm, seed) for arm in ("never", "fixed_1", "adaptive") for seed in (0, 1, 2)]
    assert list(zip(table["arm"], table["seed"], strict=True)) == expected
    assert list(table["status"]) == [
        "finished",
        "finished",
        "finished",
        "finished",
        "failed",
        "finished",
        "running",
        "finished",
        "pending",
    ]
    assert table.loc[7, "test_acc"] == 0.94
    assert table.loc[7, "plan"] == {"head": 4}
    assert table.loc[4, "error"] == "RuntimeError: loss is nan"
    assert table.loc[[4, 6, 8], "test_acc"].isna().all()
    # Asked for and never begun: no record, yet a row.
    assert table["trial_id"].isna().tolist() == [False] * 8 + [True]


def test_a_study_without_a_finished_trial_has_the_columns_of_a_summary(
    tmp_path, record, write_results
):
    results = write_results(tmp_path / "r", [record("never", 0, status="pending")])
    table = load.trials(results)
    assert set(load.SUMMARY_COLUMNS) <= set(table.columns)
    assert len(load.finished(table)) == 0
    assert load.left_out(table) == {"pending": 9}
    assert load.epochs(results).empty
    assert load.searches(results).empty


def test_what_is_left_out_is_counted_by_status(results):
    table = load.trials(results)
    assert load.left_out(table) == {"failed": 1, "pending": 1, "running": 1}
    assert load.left_out(load.finished(table)) == {}
    assert len(load.finished(table)) == 6


def test_epochs_and_searches_carry_their_trial(results):
    epochs, searches = load.epochs(results), load.searches(results)
    assert len(epochs) == 2 * 8 and len(searches) == 8
    assert list(epochs.columns[: len(load.TRIAL_KEYS)]) == list(load.TRIAL_KEYS)
    failed = epochs[epochs["status"] == "failed"]
    assert list(failed["arm"]) == ["fixed_1"] * 2
    assert list(failed["loss"]) == [1.0, 0.5]
    assert searches.loc[0, "plan"] == {"head": 4}


def test_a_missing_and_an_empty_folder_are_named(tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(ValueError, match=f"{folder}.*study.json"):
            load.trials(folder)


def test_a_study_of_a_newer_schema_is_refused_by_file(results):
    study = results / "study.json"
    newer = SCHEMA_VERSION + 1
    study.write_text(json.dumps(json.loads(study.read_text()) | {"schema_version": newer}))
    with pytest.raises(ValueError, match=f"study.json: schema_version: got {newer}"):
        load.trials(results)


def test_two_trials_of_an_arm_and_a_seed_are_refused(tmp_path, record, write_results):
    both = [record("never", 0), record("never", 1) | {"seed": 0}]
    with pytest.raises(ValueError, match="one trial of an arm and a seed"):
        load.trials(write_results(tmp_path / "r", both))


def test_more_arms_than_a_study_names_are_those_of_an_exploration(tmp_path, record, write_results):
    records = [record("never", 0), record("c_1", 0)]
    root = write_results(tmp_path / "r", records, exploration={"samples": 1})
    with pytest.raises(ValueError, match="explored arms: got 1, .*the figure coefficients"):
        load.trials(root)
