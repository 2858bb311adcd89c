"""Progress of a study: bars on a terminal, a line per event elsewhere."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from adacomcat.io.run import FINAL, Status
from study.spec.expand import expand
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

EPOCH_LINE_EVERY_S = 30.0
"""Without a terminal, the epochs of a trial are printed at most this often."""
SPEED_PERIOD_S = 3600.0
"""The remaining time follows from the epochs of so many seconds."""
STYLES = {"finished": "green", "stopped": "cyan", "failed": "bold red", "interrupted": "yellow"}


class StudyProgress:
    """Progress display that the driver updates; a context in which the bars are shown.

    On a terminal: a bar of all epochs and one for each running trial, below a line for each trial
    that ended. Elsewhere: also a line for each start, and for epochs now and then. Quiet: failures.
    """

    def __init__(
        self, console: Console, experiment: Experiment, results: Results, *, quiet: bool = False
    ) -> None:
        """
        Args:
            console: where it is printed.
            experiment: says which trials, or how many, there will be.
            results: says which have ended already.
            quiet: print nothing but failures.
        """
        self._console, self._quiet = console, quiet
        self._live = console.is_terminal and not quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            refresh_per_second=2,
            speed_estimate_period=SPEED_PERIOD_S,
            disable=not self._live,
        )
        self._started = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._ended: dict[str, Status] = {}
        self._best = ""
        self._best_val_acc = -1.0
        specs = expand(experiment)
        suggested = experiment.exploration.samples if experiment.exploration else 0
        self._trials = len(specs) + suggested * len(experiment.seeds)
        self._epochs = {spec.trial_id: _epochs(spec.config) for spec in specs}
        # Trials that are not known yet are expected to be as long as the others.
        total = round(self._trials * sum(self._epochs.values()) / len(specs))
        self._done: dict[str, int] = {}
        for record in results.trials():
            trial_id = record["trial_id"]
            self._epochs[trial_id] = _epochs(record["config"])
            if record["status"] in FINAL:
                self._ended[trial_id] = record["status"]
                self._done[trial_id] = self._epochs[trial_id]
                self._rank(record)
            else:
                self._done[trial_id] = _recorded(results, trial_id)
        done = sum(self._done.values())
        self._all = self._bars.add_task("all trials", total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def dense(self, row: Mapping[str, Any]) -> None:
        """An epoch of the dense model: epoch, epochs, loss, val_acc."""
        done, total, note = row["epoch"] + 1, row["epochs"], f"val {row['val_acc']:.2%}"
        if self._live:
            if "dense" not in self._tasks:
                self._tasks["dense"] = self._bars.add_task("dense model", total=total, note="")
            self._bars.update(self._tasks["dense"], completed=done, note=note)
            if done == total:
                self._bars.remove_task(self._tasks.pop("dense"))
        elif done == total or done % max(1, total // 10) == 0:
            self._print(f"dense model {done}/{total}", note)

    def started(self, spec: TrialSpec) -> None:
        """A trial has a worker, for the first time or again."""
        trial_id = spec.trial_id
        self._epochs[trial_id] = _epochs(spec.config)
        self._ended.pop(trial_id, None)
        self._printed[trial_id] = time.monotonic()
        if self._live and trial_id not in self._tasks:
            total, done = self._epochs[trial_id], self._done.get(trial_id, 0)
            name = f"{spec.arm} s{spec.seed}"
            self._tasks[trial_id] = self._bars.add_task(name, total=total, completed=done, note="")
        elif not self._live:
            self._print(f"{'started':11}", trial_id)

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """A row of `epochs.jsonl`; some may be left out."""
        done, total = row["step_epoch"] + 1, self._epochs[trial_id]
        self._advance(trial_id, done)
        note = f"val {row['val_acc']:.2%}  searches {row['searches']}  params {row['params']:,}"
        if trial_id in self._tasks:
            note = f"{row['phase']}  {note}"
            self._bars.update(self._tasks[trial_id], completed=done, note=note)
        elif time.monotonic() - self._printed[trial_id] >= EPOCH_LINE_EVERY_S:
            self._printed[trial_id] = time.monotonic()
            self._print(f"{row['phase']:11}", trial_id, f"epoch {done}/{total}", note, self._left())

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        """A trial has ended; `record` is its `trial.json`. Repeated calls have no effect."""
        if self._ended.get(trial_id) in (*FINAL, status):
            return
        if record is not None:
            self._epochs[trial_id] = _epochs(record["config"])
            self._rank(record)
        elif trial_id not in self._epochs:
            return
        self._ended[trial_id] = status
        if trial_id in self._tasks:
            self._bars.remove_task(self._tasks.pop(trial_id))
        left = self._epochs[trial_id] - self._done.get(trial_id, 0)
        if status == "finished":
            self._advance(trial_id, self._epochs[trial_id])
        elif status in ("stopped", "failed"):
            total = self._bars.tasks[self._all].total
            assert total is not None
            self._bars.update(self._all, total=total - left)
        sums = self._sums()
        self._bars.update(self._all, note=sums)
        parts = (f"{status:11}", trial_id, _note(record))
        if self._live:
            self._print(*parts, style=STYLES.get(status))
        else:
            self._print(*parts, f"| {sums}", self._left(), failure=status == "failed")

    def _advance(self, trial_id: str, done: int) -> None:
        # A trial that lost its worker does some epochs again.
        before = self._done.get(trial_id, 0)
        self._done[trial_id] = max(before, done)
        self._bars.advance(self._all, self._done[trial_id] - before)

    def _rank(self, record: Mapping[str, Any]) -> None:
        summary = record["summary"] or {}
        accuracy = summary.get("val_acc")
        if record["status"] == "finished" and accuracy is not None:
            if accuracy > self._best_val_acc:
                self._best_val_acc = accuracy
                self._best = f"best val {accuracy:.2%} ({record['arm']} s{record['seed']})"

    def _sums(self) -> str:
        """Progress of the study: `5/24 trials, 1 stopped, best val 98.02% (fixed_1 s0)`."""
        statuses = list(self._ended.values())
        parts = [f"{sum(status in FINAL for status in statuses)}/{self._trials} trials"]
        for status in ("stopped", "failed", "interrupted"):
            if status in statuses:
                parts.append(f"{statuses.count(status)} {status}")
        return ", ".join(filter(None, [*parts, self._best]))

    def _left(self) -> str:
        left_s = self._bars.tasks[self._all].time_remaining
        return "" if left_s is None else f"about {timedelta(seconds=round(left_s))} left"

    def _print(self, *parts: str, style: str | None = None, failure: bool = False) -> None:
        if self._quiet and not failure:
            return
        clock = str(timedelta(seconds=int(time.monotonic() - self._started)))
        text = "  ".join(filter(None, (clock, *parts)))
        # Whatever a message holds, it is no markup; and a log must not be folded.
        self._console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def _epochs(config: Mapping[str, Any]) -> int:
    epochs: int = config["search_phase"]["epochs"] + config["finetune"]["epochs"]
    return epochs


def _recorded(results: Results, trial_id: str) -> int:
    """Epochs of a trial that an earlier session has recorded."""
    try:
        return len(results.epochs(trial_id))
    except ValueError:  # A damaged row: the trial writes its trace anew.
        return 0


def _note(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    if record["summary"]:
        summary = record["summary"]
        figures = f"searches {summary['searches']}  params {summary['params']:,}"
        return f"test {summary['test_acc']:.2%}  {figures}"
    if record["error"]:
        line: str = record["error"].splitlines()[0]
        return line
    stopped = record["stopped"]
    return f"place {stopped['position'] + 1} of {stopped['of']}" if stopped else ""
