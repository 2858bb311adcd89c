"""A run directory of the command line, read and drawn as a study of one trial."""

from contextlib import closing
from pathlib import Path

import pytest

from adacomcat.config import TrialConfig
from adacomcat.io.run import Run, new_record
from adacomcat.io.trace import TraceWriter
from analysis import fig_intervals, load


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished search of three epochs, which searched in two of them."""
    made = Run(tmp_path / "deit_small")
    names = {"trial_id": "deit_small", "experiment": "search", "workload": "digits"}
    arm = {"arm": "search", "label": "search (adaptive)", "leakage": ()}
    command = {"name": "search", "argv": ["search", "--workload", "digits"]}
    record = new_record(TrialConfig().to_json(), **names, **arm, command=command, started="2026")
    made.write(record | {"provenance": {}})
    with closing(TraceWriter(made.path)) as trace:
        for epoch in range(3):
            if epoch:
                trace.search({"index": epoch - 1, "epoch": epoch, "changed": [], "distance": None})
            row = {"phase": "search", "epoch": epoch, "step_epoch": epoch, "searches": epoch}
            trace.epoch(row | {"searched": epoch > 0, "interval": 1.0, "sites_changed": 0})
    made.update("finished", summary={"test_acc": 0.5, "epochs": 3, "searches": 2})
    return made


def test_it_is_a_study_of_one_trial(run: Run) -> None:
    study = load.study(run.path)
    assert (study["experiment"], study["workload"], study["seeds"]) == ("search", "digits", [0])
    assert study["command"] == "adacomcat search --workload digits"
    (trial,) = load.trials(run.path).to_dict("records")
    assert (trial["status"], trial["label"]) == ("finished", "search (adaptive)")
    assert list(load.epochs(run.path)["step_epoch"]) == [0, 1, 2]
    assert list(load.searches(run.path)["epoch"]) == [1, 2]
    assert len(fig_intervals.data(run.path)) > 0


def test_a_trace_with_rows_missing_is_not_drawn(run: Run) -> None:
    path = run.path / "epochs.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    (record,) = load.records(run.path)
    assert record["unusable"] == "with an incomplete trace"
    assert record["error"] == "it has finished with 2 of 3 epochs"
