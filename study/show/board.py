"""What is known of a study while it runs: how far its trials are, what is left, what is best."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adacomcat.io.run import FINAL, Status
from study.explore.outcome import on_front
from study.spec.schema import TrialSpec

PHASES = (("search", "search_phase"), ("finetune", "finetune"))
"""Name of a phase in a trace, and its key in a configuration."""
SHOWN = ("val_acc", "searches", "params")
"""What displays show of an epoch."""


@dataclass
class Line:
    """A trial."""

    trial_id: str
    arm: str
    seed: int
    epochs: Mapping[str, int]
    """By phase."""
    status: Status = "pending"
    done: int = 0
    """Epochs, over both phases."""
    row: dict[str, Any] = field(default_factory=dict)
    """The last of its epochs that was heard of in this session."""
    ended: float | None = None
    """In this session."""
    note: str = ""
    told: float = 0.0
    active_s: float = 0.0
    since: float | None = None
    """Active from then on; None while it waits for the other seeds of its arm."""

    @property
    def name(self) -> str:
        return f"{self.arm} s{self.seed}"

    @property
    def total(self) -> int:
        """Epochs that it would run to its end."""
        return sum(self.epochs.values())

    def set_active(self, active: bool) -> None:
        now = time.monotonic()
        if self.since is not None:
            self.active_s += now - self.since
        self.since = now if active else None

    def elapsed_s(self) -> float:
        """For how long it has been active in this session."""
        return self.active_s + (time.monotonic() - self.since if self.since is not None else 0.0)

    def progress(self) -> str:
        """Phase and epoch, as `search 2/30`."""
        if not self.row:
            return ""
        phase = self.row["phase"]
        return f"{phase} {self.row['epoch'] + 1}/{self.epochs[phase]}"


@dataclass(frozen=True)
class Best:
    """The finished trial with the best validation accuracy."""

    name: str
    val_acc: float
    searches: int
    params: int


class Board:
    """The state that all displays show."""

    def __init__(
        self,
        specs: Sequence[TrialSpec],
        *,
        trials: int,
        records: Sequence[Mapping[str, Any]] = (),
        in_turn: bool = False,
        objectives: Sequence[str] = (),
        seeds: int = 1,
    ) -> None:
        """
        Args:
            specs: the trials that are known beforehand.
            trials: how many there will be in all.
            records: the `trial.json` of those that exist.
            in_turn: whether the seeds of an arm run one after the other.
            objectives: of an exploration; a front is kept where there are any.
            seeds: trials of an arm.
        """
        self.trials, self.in_turn = trials, in_turn
        self.objectives, self.seeds = objectives, seeds
        self.lines: dict[str, Line] = {}
        self.best: Best | None = None
        self._means: dict[str, tuple[float, ...]] = {}
        """Arm -> its objectives, of the arms whose seeds have all finished."""
        self._summaries: dict[str, list[Mapping[str, Any]]] = {}
        self.started = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._session_epochs = 0
        for spec in specs:
            self._introduce(spec.trial_id, spec.arm, spec.seed, spec.config)
        for record in records:
            line = self._introduce_record(record)
            # The others are run again, whatever had become of them.
            if record["status"] in FINAL:
                line.status, line.done = record["status"], line.total
                self._rank(line, record)

    def _introduce(self, trial_id: str, arm: str, seed: int, config: Mapping[str, Any]) -> Line:
        phases = {name: config[key]["epochs"] for name, key in PHASES}
        return self.lines.setdefault(trial_id, Line(trial_id, arm, seed, phases))

    def _introduce_record(self, record: Mapping[str, Any]) -> Line:
        return self._introduce(record["trial_id"], record["arm"], record["seed"], record["config"])

    # Events.

    def start(self, spec: TrialSpec) -> Line:
        """A trial has a worker, for the first time or again."""
        line = self._introduce(spec.trial_id, spec.arm, spec.seed, spec.config)
        line.status, line.ended = "running", None
        siblings = self._siblings(line) if self.in_turn else []
        if all(other.since is None for other in siblings):
            line.set_active(True)
        if self._first is None:
            self._first = time.monotonic()
        return line

    def update(self, trial_id: str, row: Mapping[str, Any]) -> Line:
        """A trial has done an epoch; it may be that not all are told."""
        line = self.lines[trial_id]
        if line.since is None:
            self._pass_on(line)
        # Of a trial that goes on, all before the first row was done in another session.
        before = line.done if line.row else row["step_epoch"]
        self._count(row["step_epoch"] + 1 - before)
        line.row, line.done = dict(row), row["step_epoch"] + 1
        return line

    def end(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> Line | None:
        """A trial is over, for this session at least; None where that is no news.

        A trial may be unknown until then: one that was never started can be given up, too.
        """
        line = self.lines.get(trial_id)
        if line is None and record is not None:
            line = self._introduce_record(record)
        if line is None or line.status in (*FINAL, status):
            return None
        line.set_active(False)
        line.status, line.ended = status, time.monotonic()
        waiting = [other for other in self._siblings(line) if other.status == "running"]
        if self.in_turn and waiting:
            self._pass_on(waiting[0])
        if status == "finished" and line.row:
            self._count(line.total - line.done)
        if status in FINAL:
            line.done = line.total
        if record is not None:
            line.note = _note(record)
            # The last epochs may not have been told.
            summary = record["summary"] or {}
            line.row |= {key: summary[key] for key in SHOWN if line.row and key in summary}
            self._rank(line, record)
        return line

    def _siblings(self, line: Line) -> list[Line]:
        return [
            other for other in self.lines.values() if other.arm == line.arm and other is not line
        ]

    def _pass_on(self, line: Line) -> None:
        for other in self._siblings(line):
            other.set_active(False)
        line.set_active(True)

    def _count(self, epochs: int) -> None:
        # A trial that lost its worker does some epochs again.
        self._session_epochs += max(0, epochs)
        self._last = time.monotonic()

    def _rank(self, line: Line, record: Mapping[str, Any]) -> None:
        summary = record["summary"]
        if record["status"] != "finished" or not summary:
            return
        accuracy = summary.get("val_acc")
        if accuracy is not None and (self.best is None or accuracy > self.best.val_acc):
            self.best = Best(line.name, accuracy, summary["searches"], summary["params"])
        if not self.objectives or not all(name in summary for name in self.objectives):
            return
        of_arm = self._summaries.setdefault(line.arm, [])
        of_arm.append(summary)
        if len(of_arm) == self.seeds:
            means = [float(np.mean([s[name] for s in of_arm])) for name in self.objectives]
            self._means[line.arm] = tuple(means)

    # Figures.

    def count(self, status: Status) -> int:
        return sum(line.status == status for line in self.lines.values())

    def active(self) -> list[Line]:
        """The trials that run at this moment."""
        return [line for line in self.lines.values() if line.since is not None]

    def ended(self) -> list[Line]:
        """The trials that ended in this session, the last one first."""
        over = [line for line in self.lines.values() if line.ended is not None]
        return sorted(over, key=lambda line: line.ended or 0.0, reverse=True)

    def over(self) -> int:
        """Trials that need no more: finished or stopped."""
        return sum(line.status in FINAL for line in self.lines.values())

    def front(self) -> list[str]:
        """The arms that no other dominates, of those whose seeds have all finished."""
        flags = on_front(list(self._means.values()), self.objectives)
        return [arm for arm, flag in zip(self._means, flags, strict=True) if flag]

    def epochs(self) -> tuple[int, int]:
        """Epochs done, where a stopped trial counts with all of its own, and in all.

        Of trials that are not known yet, as many are expected as the known ones have on average.
        """
        known = sum(line.total for line in self.lines.values())
        unknown = max(0, self.trials - len(self.lines))
        mean = known / len(self.lines) if self.lines else 0.0
        return sum(line.done for line in self.lines.values()), known + round(mean * unknown)

    def left_s(self) -> float | None:
        """Seconds that are left if all trials run to their ends; None before the first epoch.

        From how long the epochs of this session took, since its first trial started.
        """
        if self._first is None or not self._session_epochs:
            return None
        done, total = self.epochs()
        given_up = [line for line in self.lines.values() if line.status == "failed"]
        left = total - done - sum(line.total - line.done for line in given_up)
        each_s = (self._last - self._first) / self._session_epochs
        return max(0.0, left * each_s - (time.monotonic() - self._last))


def _note(record: Mapping[str, Any]) -> str:
    if record["summary"]:
        return f"test {record['summary']['test_acc']:.2%}"
    if record["error"]:
        line: str = record["error"].splitlines()[0]
        return line
    stopped = record.get("stopped")
    if stopped:
        return f"place {stopped['position'] + 1} of {stopped['of']}"
    return ""
