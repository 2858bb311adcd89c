import io
from typing import Any

import pytest
from rich.console import Console

from study.expand import expand
from study.monitor import LiveMonitor, PlainMonitor, count, duration
from study.schema import Experiment

ROW = {"phase": "search", "epoch": 1, "val_acc": 0.5, "searches": 1, "params": 12345}
DONE: dict[str, Any] = {
    "summary": {"test_acc": 0.75, "searches": 2, "params": 12000}, "error": None
}  # fmt: skip
BROKEN: dict[str, Any] = {"summary": None, "error": "ValueError: [bold] wrong\n\nTraceback ..."}


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (9999, "9999"), (12345, "12.3 k"), (123456, "123 k"),
     (999_999, "1000 k"), (10_661_376, "10.7 M"), (2 * 10**9, "2.00 G")],
)  # fmt: skip
def test_numbers_are_short(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_there_is_a_line_an_event(tiny_experiment: Experiment) -> None:
    specs = expand(tiny_experiment)
    each, once, best = (spec.trial_id for spec in specs)
    out = io.StringIO()
    with PlainMonitor(Console(file=out, width=40), specs, finished=[best]) as monitor:
        monitor.dense({"epoch": 0, "epochs": 1, "loss": 1.0, "val_acc": 0.25})
        monitor.started(each)
        monitor.epoch(each, ROW)  # Just started: too soon to tell.
        monitor.ended(each, "finished", DONE)
        monitor.started(once)
        monitor.ended(once, "failed", BROKEN)
    lines = [line.split(maxsplit=1)[1] for line in out.getvalue().splitlines()]
    assert lines[0] == "dense model 1/1  val 25.00%"
    assert lines[1].split() == ["started", each]
    assert lines[2].startswith(f"finished     {each}  test 75.00%  searches 2  params 12.0 k")
    assert lines[2].endswith("(2/3 finished)")
    assert lines[4].startswith(f"failed       {once}  ValueError: [bold] wrong  ")
    assert lines[4].endswith("(2/3 finished, 1 failed)")
    assert len(lines) == 5


def test_without_a_terminal_epochs_are_told_now_and_then(
    tiny_experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = expand(tiny_experiment)
    now = 0.0
    monkeypatch.setattr("study.monitor.time.monotonic", lambda: now)
    out = io.StringIO()
    monitor = PlainMonitor(Console(file=out, width=40), specs, finished=[])
    monitor.started(specs[0].trial_id)
    for now in (10.0, 31.0, 40.0, 62.0):  # noqa: B007 (the clock reads it)
        monitor.epoch(specs[0].trial_id, ROW)
    lines = out.getvalue().splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["0:31", "1:02"]
    assert "search 2/3" in lines[0]
    assert "val 50.00%  searches 1  params 12.3 k" in lines[0]


def test_the_live_table_shows_what_runs_and_what_ended(tiny_experiment: Experiment) -> None:
    specs = expand(tiny_experiment)
    each, once, _ = (spec.trial_id for spec in specs)
    console = Console(file=io.StringIO(), width=130, record=True)
    monitor = LiveMonitor(console, specs, finished=[])
    monitor.dense({"epoch": 2, "epochs": 4, "loss": 1.0, "val_acc": 0.25})
    monitor.started(each)
    monitor.ended(each, "failed", BROKEN)
    monitor.started(once)
    monitor.epoch(once, ROW)
    console.print(monitor.render())
    text = console.export_text()
    lines = [line.split() for line in text.splitlines()]
    assert "3/4" in lines[0] and "25.00%" in lines[0]
    assert lines[2][:8] == ["once", "s0", "running", "search", "2/3", "50.00%", "1", "12.3"]
    assert lines[3][:3] == ["each", "s0", "failed"]
    assert "ValueError: [bold] wrong" in text
    assert lines[4][:5] == ["0/3", "finished,", "1", "running,", "1"]


def test_a_long_note_does_not_squeeze_the_figures(tiny_experiment: Experiment) -> None:
    specs = expand(tiny_experiment)
    console = Console(file=io.StringIO(), width=130, record=True)
    monitor = LiveMonitor(console, specs, finished=[])
    monitor.started(specs[0].trial_id)
    monitor.epoch(specs[0].trial_id, ROW)
    monitor.ended(specs[0].trial_id, "failed", {"summary": None, "error": "x" * 500})
    console.print(monitor.render())
    row = console.export_text().splitlines()[1]
    assert row.split()[:8] == ["each", "s0", "failed", "search", "2/3", "50.00%", "1", "12.3"]
    assert len(row) <= 130
