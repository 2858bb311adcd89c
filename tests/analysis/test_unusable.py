"""Results of which some, or all, cannot be used: every other trial is drawn, and none is lost."""

import json
import shutil

import pandas as pd
import pytest

from adacomcat.io.run import SCHEMA_VERSION
from analysis import load, make_all, notes, report, table_arms

NEWER = SCHEMA_VERSION + 5


def folder(root, arm, seed):
    return root / "trials" / f"digits-{arm}-s{seed}-0123abcd"


def change(root, name, number, drop=(), **changes):
    """Rewrite the record of a trial, which is found by its arm and its seed."""
    path = folder(root, name, number) / "trial.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in drop}))


def newer(root, arm, seed):
    change(root, arm, seed, schema_version=NEWER)


def broken(root, arm, seed):
    (folder(root, arm, seed) / "trial.json").write_text('{"schema_version": 1, "arm')


def no_object(root, arm, seed):
    (folder(root, arm, seed) / "trial.json").write_text("[]")


def unversioned(root, arm, seed):
    change(root, arm, seed, drop=["schema_version"])


def without_status(root, arm, seed):
    change(root, arm, seed, drop=["status"])


def strange_config(root, arm, seed):
    change(root, arm, seed, config=3)


def unknown_leakage(root, arm, seed):
    change(root, arm, seed, drop=["leakage"])


def unknown_data(root, arm, seed):
    change(root, arm, seed, drop=["leakage"], config={"data": {"seen_by": "all"}})


def other_workload(root, arm, seed):
    change(root, arm, seed, workload="fashion_mnist")


def broken_trace(root, arm, seed):
    (folder(root, arm, seed) / "searches.jsonl").write_text('{"index": 0\n')


def no_trace(root, arm, seed):
    (folder(root, arm, seed) / "epochs.jsonl").unlink()


def no_accuracy(root, arm, seed):
    change(root, arm, seed, summary={"searches": 0})


FAULTS = {
    newer: (f"of schema {NEWER}", f"allowed: up to {SCHEMA_VERSION}"),
    broken: ("not JSON", "trial.json: not JSON"),
    no_object: ("not JSON", "a JSON object"),
    unversioned: ("without a schema version", "schema_version: got None"),
    without_status: ("without status", "status: got nothing"),
    strange_config: ("of a strange config", "config: got 3"),
    unknown_leakage: ("of unknown leakage", "config.data: got None"),
    unknown_data: ("of unknown leakage", "config.data.seen_by"),
    other_workload: ("of the workload fashion_mnist", "the study is of digits"),
    broken_trace: ("with a broken trace", "searches.jsonl, line 1: not JSON"),
    no_trace: ("without a trace", "epochs.jsonl"),
    no_accuracy: ("without an accuracy", "accuracy None"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_trial_is_counted_with_its_cause_and_costs_no_other(fault, results):
    fault(results, "never", 1)
    short, error = FAULTS[fault]
    table = load.trials(results).set_index(["arm", "seed"])
    row = table.loc[("never", 1)]
    assert (row["status"], row["unusable"]) == (load.UNUSABLE, short)
    assert row["label"] == "never (uniform ranks)" and pd.isna(row["test_acc"])
    assert error in row["error"] and str(results) not in row["error"]
    assert list(load.finished(table).loc["never", "test_acc"]) == [0.91, 0.93]
    standing = notes.standing(notes.sound(results)).set_index("arm")
    assert standing.loc["never", "left_out"] == 1
    assert standing.loc["never", "left_out_why"] == f"1 {short}"
    for traces in (load.epochs(results), load.searches(results)):
        assert 1 not in set(traces.loc[traces["arm"] == "never", "seed"])
    assert row["trial_id"] not in load.usable(results) and len(load.usable(results)) == 7


def test_what_belongs_to_no_arm_is_counted_as_an_arm_of_its_own(results):
    for name in ("digits-never-s1-copy", "fashion_mnist-never-s1-0123abcd"):
        (results / "trials" / name).mkdir()
        (results / "trials" / name / "trial.json").write_text("{")
    change(results, "never", 0, arm="stranger", label="<b>")
    table = load.trials(results)
    stray = table[table["arm"] == load.STRAY]
    assert list(stray["seed"]) == [load.NO_SEED] * 3
    assert load.left_out(stray) == {"not JSON": 2, "of the arm stranger": 1}
    # The seed whose record went astray is one that the study still asks for.
    assert load.left_out(table[table["arm"] == "never"]) == {"pending": 1}
    said = notes.write([], notes.standing(table))
    assert said.endswith("of no arm (2 not JSON, 1 of the arm stranger).")


def test_records_without_leakage_have_that_of_their_configuration(results):
    """Before it was written down, it followed from the same settings, or there were none."""
    old = {"name": "digits", "root": None, "search_fraction": 0.15}
    leaking = old | {"search_from": "test"}
    change(results, "never", 0, drop=["leakage"], config={"data": old})
    change(results, "never", 1, drop=["leakage"], config={"data": leaking})
    table = load.trials(results)
    assert load.left_out(table[table["arm"] == "never"]) == {}
    assert list(table["leakage"][:3]) == [
        "",
        "LEAKAGE: the rank search saw the images that are reported on",
        "",
    ]


def test_every_figure_table_and_the_report_are_made_of_what_is_sound(schedules, tmp_path):
    schedules = shutil.copytree(schedules, tmp_path / "copy")
    newer(schedules, "adaptive", 1)
    (schedules / "trials" / "odd").mkdir()
    (schedules / "trials" / "odd" / "trial.json").write_text("{")
    made = {one.exhibit.name: one for one in make_all.make_all(schedules)}
    assert not [one for one in made.values() if one.fault]
    expected = {
        "table_arms",
        "accuracy_vs_searches",
        "accuracy_vs_cost",
        "intervals",
        "table_probabilities",
        "ranks",
        "table_staleness",
    }
    assert {name for name, one in made.items() if not one.reason} >= expected
    for name in expected:
        (path,) = [path for path in made[name].paths if path.suffix == ".csv"]
        found = pd.read_csv(path).set_index("arm")["left_out_why"].to_dict()
        assert found["adaptive"] == f"1 of schema {NEWER}", name
        # The figure of one trial tells of that trial's arm.
        assert name == "ranks" or found[load.STRAY] == "1 not JSON", name
    compared = pd.read_csv(schedules / "figures" / "table_arms.csv")
    assert compared.loc[compared["arm"] == load.STRAY, "against"].isna().all()
    text = report.build(schedules, list(made.values()))
    assert f"Left out, since no figure can use them: 1 not JSON, 1 of schema {NEWER}." in text


def refused(root):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        table_arms.data(root)
    return str(caught.value)


def test_when_no_trial_reads_one_message_names_folder_and_versions(tmp_path, record, write_results):
    arms = {"never": "never"}
    root = write_results(tmp_path / "r", [record("never", s) for s in range(3)], arms)
    for seed, fault in enumerate((newer, newer, broken)):
        fault(root, "never", seed)
    assert refused(root) == (
        f"{root}: got 1 not JSON, 2 of schema {NEWER}, allowed: a study with a finished trial "
        f"(this version reads schemas up to {SCHEMA_VERSION})"
    )


@pytest.mark.parametrize("tool", [make_all, report])
def test_when_no_trial_reads_nothing_is_drawn(tool, tmp_path, record, write_results, capsys):
    root = write_results(tmp_path / "r", [record("never", s) for s in range(3)])
    for seed in range(3):
        newer(root, "never", seed)
    assert tool.main([str(root)]) == 2
    said = capsys.readouterr()
    assert said.err.endswith(
        f"{root}: got 3 of schema {NEWER}, allowed: trials that this version can use (it reads "
        f"schemas up to {SCHEMA_VERSION})\n"
    )
    assert said.out == "" and not (root / "figures").exists()


@pytest.mark.parametrize("status", ["interrupted", "failed", "stopped", "pending", "running"])
def test_trials_that_have_not_finished_are_counted_by_status(
    status, tmp_path, record, write_results
):
    arms = {"never": "never", "adaptive": "adaptive"}
    records = [record("never", 0), record("adaptive", 0, status)]
    root = write_results(tmp_path / "r", records, arms, (0,))
    table = table_arms.data(root)
    assert list(table["left_out_why"]) == ["", f"1 {status}"]
    assert f"Trials left out: adaptive (1 {status})." in table_arms.note(table)


@pytest.mark.parametrize("tool", [make_all, report, table_arms])
def test_what_is_no_results_directory_is_one_line(tool, tmp_path, capsys):
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / "empty").mkdir()
    for path in (tmp_path, tmp_path / "empty", tmp_path / "holiday.jpg", tmp_path / "absent"):
        assert tool.main([str(path)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        assert f"results: got '{path}', allowed: a directory with study.json" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "holiday.jpg"]
