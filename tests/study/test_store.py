import json
import math
from pathlib import Path
from typing import Any

import pytest

from study.expand import arm_configs, expand
from study.schema import Experiment
from study.store import EPOCHS, SEARCHES, Results, Rows, TraceWriter, read_rows


def begin(results: Results, experiment: Experiment, settings: dict[str, Any] | None = None) -> None:
    configs = arm_configs(experiment, settings or {})
    results.begin(experiment, configs, command="run", provenance={"git_commit": "abc"})


def epoch(step: int, searches: int = 0) -> dict[str, Any]:
    return {"step_epoch": step, "searches": searches}


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "a.jsonl")
    rows.append({"x": 1, "name": "é\n"})
    rows.append({"x": None})
    rows.close()
    assert read_rows(tmp_path / "a.jsonl") == [{"x": 1, "name": "é\n"}, {"x": None}]
    assert read_rows(tmp_path / "absent.jsonl") == []


def test_a_line_cut_by_a_kill_is_left_out_and_the_next_row_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": 1}\n{"x": 2')
    assert read_rows(path) == [{"x": 1}]
    rows = Rows(path)
    rows.append({"x": 3})
    rows.close()
    assert path.read_text() == '{"x": 1}\n{"x": 3}\n'
    path.write_bytes(b'{"x"')
    rows = Rows(path)
    rows.append({"x": 4})
    rows.close()
    assert read_rows(path) == [{"x": 4}]


def test_a_spoiled_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\nnonsense\n{"x": 3}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not JSON"):
        read_rows(path)


def test_a_row_that_json_has_no_word_for_is_refused(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        rows.append({"loss": math.nan})
    rows.close()
    assert read_rows(tmp_path / "a.jsonl") == []


def test_a_resumed_trial_writes_each_epoch_and_search_once(tmp_path: Path) -> None:
    first = TraceWriter(tmp_path)
    first.epoch(epoch(0))
    for step in (1, 2, 3):
        first.search({"index": step - 1, "attempt": 1})
        first.epoch(epoch(step, searches=step))
    first.close()
    # Resumed from the checkpoint after epoch 1: the search of epoch 2 comes first.
    second = TraceWriter(tmp_path)
    second.search({"index": 1, "attempt": 2})
    second.epoch(epoch(2, searches=2))
    second.close()
    assert [row["step_epoch"] for row in read_rows(tmp_path / EPOCHS)] == [0, 1, 2]
    assert read_rows(tmp_path / SEARCHES) == [
        {"index": 0, "attempt": 1}, {"index": 1, "attempt": 2},
    ]  # fmt: skip


def test_a_trial_resumed_where_no_search_follows_drops_the_searches_beyond(tmp_path: Path) -> None:
    first = TraceWriter(tmp_path)
    first.epoch(epoch(0))
    first.search({"index": 0})
    first.close()
    second = TraceWriter(tmp_path)
    second.epoch(epoch(0))
    second.close()
    assert read_rows(tmp_path / EPOCHS) == [epoch(0)]
    assert read_rows(tmp_path / SEARCHES) == []


def test_the_files_of_a_study(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path / "r")
    begin(results, tiny_experiment)
    study = json.loads((tmp_path / "r" / "study.json").read_text())
    assert study["schema_version"] == 1
    assert study["experiment"] == "tiny_experiment"
    assert study["question"] == "Does it run?"
    assert (study["workload"], study["seeds"], study["command"]) == ("tiny", [0], "run")
    assert study["provenance"] == {"git_commit": "abc"}
    assert [(arm["name"], arm["schedule"]) for arm in study["arms"]] == [
        ("each", {"kind": "fixed"}), ("once", {"kind": "once"}), ("best", {"kind": "resolved"}),
    ]  # fmt: skip

    spec = expand(tiny_experiment)[0]
    results.add(spec)
    path = tmp_path / "r" / "trials" / spec.trial_id / "trial.json"
    record = json.loads(path.read_text())
    assert record["config"] == spec.config
    shown = {k: v for k, v in record.items() if k not in ("config", "trial_id", "needs")}
    assert shown == {
        "schema_version": 1, "experiment": "tiny_experiment", "workload": "tiny", "arm": "each",
        "label": "each", "seed": 0, "status": "pending", "provenance": None, "started": None,
        "finished": None, "error": None, "summary": None,
    }  # fmt: skip

    results.update(spec.trial_id, "finished", summary={"test_acc": 1.0})
    results.add(spec)  # A second run of the study must not undo the first.
    assert results.status(spec.trial_id) == "finished"
    assert [record["summary"] for record in results.trials()] == [{"test_acc": 1.0}]


def test_the_same_study_goes_on_and_may_gain_seeds(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment.model_copy(update={"seeds": (0, 1)}))
    started = results.study()["started"]
    begin(results, tiny_experiment.model_copy(update={"seeds": (0,)}))
    assert results.study()["seeds"] == [0, 1]
    begin(results, tiny_experiment.model_copy(update={"seeds": (0, 1, 2)}))
    assert results.study()["seeds"] == [0, 1, 2]
    assert results.study()["started"] == started


def test_another_study_is_refused(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    other = tiny_experiment.model_copy(update={"name": "another"})
    with pytest.raises(ValueError, match="--experiment: got 'another', allowed: 'tiny_experiment'"):
        begin(results, other)
    workload = tiny_experiment.workload.model_copy(update={"name": "big"})
    with pytest.raises(ValueError, match="--workload: got 'big', allowed: 'tiny'"):
        begin(results, tiny_experiment.model_copy(update={"workload": workload}))
    with pytest.raises(
        ValueError, match=r"other settings(.|\n)*each\.search_phase\.epochs: 3 -> 5"
    ):
        begin(results, tiny_experiment, {"search_phase.epochs": 5})
    fewer = tiny_experiment.model_copy(update={"arms": tiny_experiment.arms[:2]})
    with pytest.raises(ValueError, match=r"best: \{.*\.\.\. -> null"):
        begin(results, fewer)


def test_a_newer_schema_is_refused(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    content = json.loads(results.study_file.read_text()) | {"schema_version": 2}
    results.study_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"study\.json: schema_version: got 2, allowed: up to 1"):
        begin(results, tiny_experiment)


def test_a_folder_of_other_files_is_refused(tmp_path: Path, tiny_experiment: Experiment) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="--results: .*it has holiday.jpg"):
        begin(Results(tmp_path), tiny_experiment)


def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--results: cannot write .*Not a directory"):
        begin(Results(tmp_path / "file" / "r"), tiny_experiment)


def test_a_folder_without_a_study_has_none_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="results: .*a directory with study.json"):
        Results(tmp_path).study()
