import io
from typing import Any

import pytest
from rich.console import Console

from study.show.board import Board
from study.show.monitor import (
    LiveMonitor,
    PlainMonitor,
    QuietMonitor,
    count,
    duration,
    make_monitor,
)
from study.spec.expand import expand
from study.spec.exploration import Dimension, Exploration
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

ROW = {
    "phase": "search",
    "epoch": 1,
    "step_epoch": 1,
    "val_acc": 0.5,
    "searches": 1,
    "params": 12345,
}


def record(spec: TrialSpec, status: str = "finished", **changes: Any) -> dict[str, Any]:
    summary = {"test_acc": 0.75, "val_acc": 0.8, "searches": 2, "params": 12000}
    return {
        "trial_id": spec.trial_id,
        "arm": spec.arm,
        "seed": spec.seed,
        "config": spec.config,
        "status": status,
        "summary": summary if status == "finished" else None,
        "error": None,
        "stopped": None,
        **changes,
    }


def broken(spec: TrialSpec, error: str = "ValueError: [bold] wrong\n\nTraceback ...") -> Any:
    return record(spec, "failed", error=error)


def live(specs: list[TrialSpec], width: int = 130, height: int = 40) -> tuple[Console, LiveMonitor]:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    return console, LiveMonitor(console, Board(specs, trials=len(specs)))


def drawn(console: Console, monitor: LiveMonitor) -> list[str]:
    console.print(monitor.render())
    return console.export_text().splitlines()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (9999, "9999"),
        (12345, "12.3 k"),
        (123456, "123 k"),
        (999_999, "1000 k"),
        (10_661_376, "10.7 M"),
        (2 * 10**9, "2.00 G"),
    ],
)
def test_numbers_are_short(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_there_is_a_line_an_event(tiny_experiment: Experiment) -> None:
    specs = expand(tiny_experiment)
    each, once, best = specs
    board = Board(specs, trials=3, records=[record(best)])
    out = io.StringIO()
    with PlainMonitor(Console(file=out, width=40), board) as monitor:
        monitor.dense({"epoch": 0, "epochs": 1, "loss": 1.0, "val_acc": 0.25})
        monitor.started(each)
        monitor.epoch(each.trial_id, ROW)  # Just started: too soon to tell.
        monitor.ended(each.trial_id, "finished", record(each))
        monitor.ended(each.trial_id, "finished", record(each))
        monitor.started(once)
        monitor.ended(once.trial_id, "failed", broken(once))
    lines = [line.split(maxsplit=1)[1] for line in out.getvalue().splitlines()]
    assert lines[0] == "dense model 1/1  val 25.00%"
    assert lines[1].split() == ["started", each.trial_id]
    start = f"finished      {each.trial_id}  test 75.00%  searches 2  params 12.0 k"
    assert lines[2].startswith(start)
    assert lines[2].split("  | ")[1:] == [
        "2/3 trials done",
        "about 0:00 left",
        "best val 80.00% (best s0, 2 searches, 12.0 k params)",
    ]
    assert lines[4].startswith(f"failed        {once.trial_id}  ValueError: [bold] wrong  ")
    assert lines[4].split("  | ")[1] == "2/3 trials done, 1 failed"
    assert len(lines) == 5


def test_without_a_terminal_epochs_are_told_now_and_then(
    tiny_experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = expand(tiny_experiment)
    now = 0.0
    monkeypatch.setattr("study.show.monitor.time.monotonic", lambda: now)
    out = io.StringIO()
    monitor = PlainMonitor(Console(file=out, width=40), Board(specs, trials=3))
    monitor.started(specs[0])
    for now in (10.0, 31.0, 40.0, 62.0):  # noqa: B007 (the clock reads it)
        monitor.epoch(specs[0].trial_id, ROW)
    lines = out.getvalue().splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["0:31", "1:02"]
    assert "search 2/3" in lines[0]
    assert "val 50.00%  searches 1  params 12.3 k  about " in lines[0]


def test_quiet_is_quiet_but_for_failures(tiny_experiment: Experiment) -> None:
    each, once, _ = specs = expand(tiny_experiment)
    out = io.StringIO()
    with QuietMonitor(Console(file=out, width=40), Board(specs, trials=3)) as monitor:
        monitor.dense({"epoch": 0, "epochs": 1, "loss": 1.0, "val_acc": 0.25})
        monitor.started(each)
        monitor.epoch(each.trial_id, ROW)
        monitor.ended(each.trial_id, "finished", record(each))
        monitor.started(once)
        assert out.getvalue() == ""
        monitor.ended(once.trial_id, "failed", broken(once))
    assert out.getvalue() == f"failed  {once.trial_id}  ValueError: [bold] wrong\n"


def test_the_live_table_shows_what_runs_and_what_ended(tiny_experiment: Experiment) -> None:
    each, once, best = specs = expand(tiny_experiment)
    console, monitor = live(specs)
    monitor.dense({"epoch": 2, "epochs": 4, "loss": 1.0, "val_acc": 0.25})
    monitor.started(each)
    monitor.epoch(each.trial_id, ROW)
    stopped = record(each, "stopped", stopped={"position": 6, "of": 7})
    monitor.ended(each.trial_id, "stopped", stopped)
    monitor.started(best)
    monitor.ended(best.trial_id, "finished", record(best))
    monitor.started(once)
    monitor.epoch(once.trial_id, ROW)
    lines = [" ".join(line.split()) for line in drawn(console, monitor)]
    assert lines[0] == "trial state val searches params time"
    assert lines[1] == "once s0 search 2/3 50.00% 1 12.3 k 0:00"
    assert lines[2] == "best s0 finished 0:00 test 75.00%"
    assert lines[3] == "each s0 stopped 2/4 50.00% 1 12.3 k 0:00 place 7 of 7"
    assert lines[4].startswith("dense model") and lines[4].endswith("3/4 epochs val 25.00%")
    assert lines[5].startswith("trials") and "10/12 epochs 0:00, about 0:00 left" in lines[5]
    assert lines[6] == "2/3 trials done (1 stopped), 1 running"
    assert lines[7] == "best val 80.00% (best s0, 2 searches, 12.0 k params)"
    assert len(lines) == 8


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_note_does_not_squeeze_the_figures(tiny_experiment: Experiment, width: int) -> None:
    specs = expand(tiny_experiment)
    console, monitor = live(specs, width)
    monitor.started(specs[0])
    monitor.epoch(specs[0].trial_id, ROW)
    monitor.ended(specs[0].trial_id, "failed", broken(specs[0], "x" * 500))
    lines = drawn(console, monitor)
    assert lines[1].split()[:8] == ["each", "s0", "failed", "2/4", "50.00%", "1", "12.3", "k"]
    assert all(len(line) <= width for line in lines)


def test_the_sums_stay_in_sight_on_a_low_terminal(tiny_experiment: Experiment) -> None:
    many = tiny_experiment.model_copy(update={"seeds": tuple(range(20))})
    specs = [spec for spec in expand(many) if spec.arm == "each"]
    console, monitor = live(specs, width=80, height=12)
    for spec in specs:
        monitor.started(spec)
    lines = drawn(console, monitor)
    assert len(lines) <= 12
    assert "and 15 more that run" in lines
    assert lines[-1] == "0/20 trials done, 20 running"


def test_the_display_that_fits_is_made(tiny_experiment: Experiment, tmp_path: Any) -> None:
    results = Results(tmp_path)
    first = expand(tiny_experiment)[0]
    results.add(first)
    results.update(first.trial_id, "stopped")

    def made(terminal: bool, quiet: bool = False) -> Any:
        console = Console(file=io.StringIO(), force_terminal=terminal)
        return make_monitor(console, tiny_experiment, results, quiet=quiet)

    assert isinstance(made(True), LiveMonitor)
    assert isinstance(made(False), PlainMonitor)
    assert isinstance(made(True, quiet=True), QuietMonitor)
    board = made(False)._board
    assert (board.trials, board.over(), board.in_turn) == (3, 1, False)


def test_an_exploration_expects_its_references_and_its_samples(
    tiny_experiment: Experiment, tmp_path: Any
) -> None:
    growth = Dimension(name="growth", setting="schedule.growth", kind="float", low=1.0, high=4.0)
    exploration = Exploration(space=(growth,), objectives=("val_acc", "searches"), samples=10)
    references = tuple(arm for arm in tiny_experiment.arms if not arm.needs)
    experiment = tiny_experiment.model_copy(
        update={"exploration": exploration, "arms": references, "seeds": (0, 1)}
    )
    console = Console(file=io.StringIO())
    board: Board = make_monitor(console, experiment, Results(tmp_path))._board  # type: ignore[attr-defined]
    assert board.trials == (2 + 10) * 2
    assert board.epochs() == (0, 24 * 4)
    assert (board.in_turn, board.seeds) == (True, 2)
    assert board.objectives == ("val_acc", "searches")
