import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from study.show.progress import StudyProgress
from study.spec.expand import expand
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

Make = Callable[..., StudyProgress]


def row(step: int) -> dict[str, Any]:
    """Three epochs of the search phase, then one of finetuning."""
    phase = "search" if step < 3 else "finetune"
    figures = {"val_acc": 0.5, "searches": 1, "params": 12345}
    return {"phase": phase, "step_epoch": step, **figures}


def record(spec: TrialSpec, status: str = "finished", **changes: Any) -> dict[str, Any]:
    summary = {"test_acc": 0.75, "val_acc": 0.8, "searches": 2, "params": 12000}
    return {
        "trial_id": spec.trial_id,
        "arm": spec.arm,
        "seed": spec.seed,
        "config": spec.config,
        "status": status,
        "summary": summary if status == "finished" else None,
        "error": "ValueError: [bold] wrong\n\nTraceback" if status == "failed" else None,
        "stopped": {"position": 6, "of": 7} if status == "stopped" else None,
        **changes,
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stops the display's clock; a call advances it."""
    now = [100.0]
    monkeypatch.setattr("study.show.progress.time.monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


@pytest.fixture
def make(tiny_experiment: Experiment, results: Results) -> Make:
    def made(console: Console, experiment: Experiment = tiny_experiment, **arguments: Any) -> Any:
        return StudyProgress(console, experiment, results, **arguments)

    return made


def plain() -> Console:
    return Console(file=io.StringIO(), width=40)


def terminal(width: int = 140, height: int = 40) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True)


def lines(console: Console) -> list[str]:
    """What was printed, without the clock."""
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.split(maxsplit=1)[1] for line in text.splitlines()]


def bars(progress: StudyProgress, width: int = 140) -> list[str]:
    """The bars as they stand, with gaps closed."""
    console = Console(file=io.StringIO(), width=width)
    console.print(progress._bars.get_renderable())
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(re.sub("[━╸╺]", "", line).split()) for line in text.splitlines()]


def test_without_a_terminal_there_is_a_line_per_event(
    make: Make, tiny_experiment: Experiment, clock: Any
) -> None:
    each, once, _ = expand(tiny_experiment)
    console = plain()
    with make(console) as progress:
        progress.dense({"epoch": 0, "epochs": 1, "loss": 1.0, "val_acc": 0.25})
        progress.started(each)
        progress.epoch(each.trial_id, row(0))  # Just started: too soon to print.
        progress.ended(each.trial_id, "finished", record(each))
        progress.ended(each.trial_id, "finished", record(each))
        progress.started(once)
        progress.ended(once.trial_id, "failed", record(once, "failed"))
    found = lines(console)
    assert found[0] == "dense model 1/1  val 25.00%"
    assert found[1] == f"started      {each.trial_id}"
    assert found[2].startswith(
        f"finished     {each.trial_id}  test 75.00%  searches 2  params 12,000  "
        "| 1/3 trials, best val 80.00% (each s0)"
    )
    assert found[4].startswith(
        f"failed       {once.trial_id}  ValueError: [bold] wrong  "
        "| 1/3 trials, 1 failed, best val 80.00% (each s0)"
    )
    assert len(found) == 5


def test_without_a_terminal_epochs_are_printed_now_and_then(
    make: Make, tiny_experiment: Experiment, clock: Any
) -> None:
    each = expand(tiny_experiment)[0]
    console = plain()
    progress = make(console)
    progress.started(each)
    for step, seconds in enumerate((10, 21, 9, 22)):
        clock(seconds)
        progress.epoch(each.trial_id, row(step))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    printed = text.splitlines()[1:]
    assert [line.split()[0] for line in printed] == ["0:00:31", "0:01:02"]
    note = "val 50.00%  searches 1  params 12,345"
    assert f"search       {each.trial_id}  epoch 2/4  {note}" in printed[0]
    assert f"finetune     {each.trial_id}  epoch 4/4  {note}" in printed[1]


def test_quiet_prints_failures_alone(make: Make, tiny_experiment: Experiment) -> None:
    each, once, _ = expand(tiny_experiment)
    for console in (plain(), terminal()):
        with make(console, quiet=True) as progress:
            progress.dense({"epoch": 0, "epochs": 1, "loss": 1.0, "val_acc": 0.25})
            progress.started(each)
            progress.epoch(each.trial_id, row(0))
            progress.ended(each.trial_id, "finished", record(each))
            progress.started(once)
            progress.ended(once.trial_id, "failed", record(once, "failed"))
        (line,) = lines(console)
        assert line.startswith(f"failed       {once.trial_id}  ValueError: [bold] wrong")


def test_a_terminal_has_bars_of_what_runs_below_lines_of_what_ended(
    make: Make, tiny_experiment: Experiment
) -> None:
    each, once, best = expand(tiny_experiment)
    console = terminal()
    progress = make(console)
    progress.dense({"epoch": 0, "epochs": 2, "loss": 1.0, "val_acc": 0.25})
    assert bars(progress)[1].startswith("dense model 1/2 ")
    progress.dense({"epoch": 1, "epochs": 2, "loss": 1.0, "val_acc": 0.25})
    progress.started(each)
    progress.epoch(each.trial_id, row(1))
    progress.started(once)
    found = bars(progress)
    assert re.fullmatch(r"all trials 2/12 [0-9:]+ [-0-9:]+", found[0])
    assert re.fullmatch(
        r"each s0 2/4 [0-9:]+ [-0-9:]+ search val 50.00% searches 1 params 12,345", found[1]
    )
    assert found[2].startswith("once s0 0/4 ") and len(found) == 3
    progress.ended(each.trial_id, "stopped", record(each, "stopped"))
    progress.started(best)
    progress.ended(best.trial_id, "finished", record(best))
    # What a stopped trial leaves undone is not waited for.
    found = bars(progress)
    assert found[0].startswith("all trials 6/10 ")
    assert found[0].endswith("2/3 trials, 1 stopped, best val 80.00% (best s0)")
    assert found[1].startswith("once s0") and len(found) == 2
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"stopped      {each.trial_id}  place 7 of 7" in text
    assert f"finished     {best.trial_id}  test 75.00%" in text


def test_what_earlier_sessions_did_is_done(
    make: Make, tiny_experiment: Experiment, results: Results
) -> None:
    each, once, best = expand(tiny_experiment)
    for spec in (each, once, best):
        results.add(spec)
    results.update(each.trial_id, "stopped", stopped={"position": 0, "of": 9})
    results.update(once.trial_id, "failed", error="ValueError: x")
    (results.folder(best.trial_id) / "epochs.jsonl").write_text('{"step_epoch": 0}\n' * 2)
    progress = make(terminal())
    assert bars(progress)[0].startswith("all trials 6/12 ")
    # One that failed is run again, and its end is news.
    progress.started(once)
    progress.ended(once.trial_id, "failed", record(once, "failed"))
    assert "1/3 trials, 1 stopped, 1 failed" in bars(progress)[0]


def test_epochs_that_are_run_again_do_not_count_twice(
    make: Make, tiny_experiment: Experiment
) -> None:
    each = expand(tiny_experiment)[0]
    progress = make(terminal())
    for _ in range(2):
        progress.started(each)
        progress.epoch(each.trial_id, row(0))
        progress.epoch(each.trial_id, row(2))  # One in between was not told.
    assert bars(progress)[0].startswith("all trials 3/12 ")
    assert bars(progress)[1].startswith("each s0 3/4 ")
    assert len(bars(progress)) == 2


def test_an_exploration_expects_its_references_and_its_samples(
    make: Make, exploration: Callable[..., Experiment]
) -> None:
    experiment = exploration(samples=10, seeds=(0, 1))
    epochs = sum(
        expand(experiment)[0].config[name]["epochs"] for name in ("search_phase", "finetune")
    )
    found = bars(make(terminal(), experiment))[0]
    assert found.startswith(f"all trials 0/{(2 + 10) * 2 * epochs} ")


def test_trials_that_were_never_started_may_be_given_up(
    make: Make, tiny_experiment: Experiment
) -> None:
    console = plain()
    progress = make(console)
    progress.ended("unknown", "interrupted", None)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    unknown = expand(tiny_experiment)[0].model_copy(update={"trial_id": "unknown"})
    progress.ended("unknown", "failed", record(unknown, "failed"))
    assert lines(console)[0].startswith("failed       unknown  ValueError: [bold] wrong")


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_keeps_a_line_per_bar(
    make: Make, tiny_experiment: Experiment, width: int
) -> None:
    progress = make(terminal(width))
    progress.started(expand(tiny_experiment)[0])
    progress.epoch(expand(tiny_experiment)[0].trial_id, row(1))
    assert len(bars(progress, width)) == 2
