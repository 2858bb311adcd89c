"""What the user sees while a study runs: a live table, or without a terminal a line an event."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from study.schema import Status, TrialSpec

EPOCH_LINE_EVERY_S = 30.0
"""Without a terminal, a trial's epochs are told at most this often."""
ENDED_ROWS = 8
"""Ended trials that the live table keeps in sight."""
COLUMNS = (
    ("trial", 14, False), ("status", 11, False), ("epoch", 14, False), ("val", 7, True),
    ("searches", 8, True), ("params", 7, True), ("elapsed", 8, True),
)  # fmt: skip
"""Of the live table: name, width, whether it is aligned to the right."""


class Monitor(Protocol):
    """Is told what happens; a context in which the display is up."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def dense(self, row: Mapping[str, Any]) -> None:
        """An epoch of the dense model: epoch, epochs, loss, val_acc."""

    def started(self, trial_id: str) -> None:
        """A trial has a worker."""

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """A row of `epochs.jsonl`."""

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        """A trial is over; `record` is its `trial.json`."""


@dataclass
class _Line:
    """What is known of a trial."""

    name: str
    epochs: dict[str, int]
    status: Status = "pending"
    started: float | None = None
    ended: float | None = None
    told: float = 0.0
    row: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def elapsed_s(self) -> float:
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    def progress(self) -> str:
        if not self.row:
            return ""
        phase = self.row["phase"]
        return f"{phase} {self.row['epoch'] + 1}/{self.epochs[phase]}"


class _Board:
    """The state that both displays show."""

    def __init__(self, specs: Sequence[TrialSpec], finished: Sequence[str]) -> None:
        self.lines = {
            spec.trial_id: _Line(f"{spec.arm} s{spec.seed}", _phase_epochs(spec)) for spec in specs
        }
        self.kept = len(finished)
        for trial_id in finished:
            self.lines[trial_id].status = "finished"
        self.started = time.monotonic()

    def start(self, trial_id: str) -> _Line:
        line = self.lines[trial_id]
        line.status, line.started = "running", time.monotonic()
        return line

    def update(self, trial_id: str, row: Mapping[str, Any]) -> _Line:
        line = self.lines[trial_id]
        line.row = dict(row)
        return line

    def end(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> _Line:
        line = self.lines[trial_id]
        line.status, line.ended = status, time.monotonic()
        if record and record["summary"]:
            line.row.update({k: record["summary"][k] for k in ("searches", "params")})
            line.note = f"test {record['summary']['test_acc']:.2%}"
        elif record and record["error"]:
            line.note = record["error"].splitlines()[0]
        return line

    def count(self, status: Status) -> int:
        return sum(line.status == status for line in self.lines.values())

    def tally(self) -> str:
        over = self.count("finished")
        parts = [f"{over}/{len(self.lines)} finished"]
        parts += [
            f"{self.count(s)} {s}"
            for s in ("running", "failed", "interrupted")
            if self.count(s)
        ]  # fmt: skip
        return ", ".join(parts)


def _phase_epochs(spec: TrialSpec) -> dict[str, int]:
    return {
        "search": spec.config["search_phase"]["epochs"],
        "finetune": spec.config["finetune"]["epochs"],
    }


class PlainMonitor:
    """A line an event, for logs and pipes."""

    def __init__(
        self, console: Console, specs: Sequence[TrialSpec], finished: Sequence[str]
    ) -> None:
        self._console, self._board = console, _Board(specs, finished)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def _print(self, text: str) -> None:
        clock = duration(time.monotonic() - self._board.started)
        # Whatever a message holds, it is no markup; and a log must not be folded.
        self._console.print(f"{clock:>8}  {text}", markup=False, highlight=False, soft_wrap=True)

    def dense(self, row: Mapping[str, Any]) -> None:
        epoch, epochs = row["epoch"] + 1, row["epochs"]
        if epoch == epochs or epoch % max(1, epochs // 10) == 0:
            self._print(f"dense model {epoch}/{epochs}  val {row['val_acc']:.2%}")

    def started(self, trial_id: str) -> None:
        self._board.start(trial_id).told = time.monotonic()
        self._print(f"started      {trial_id}")

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        line = self._board.update(trial_id, row)
        if time.monotonic() - line.told >= EPOCH_LINE_EVERY_S:
            line.told = time.monotonic()
            self._print(
                f"{line.progress():12} {trial_id}  val {row['val_acc']:.2%}  "
                f"searches {row['searches']}  params {count(row['params'])}"
            )

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        line = self._board.end(trial_id, status, record)
        figures = [f"{k} {count(line.row[k])}" for k in ("searches", "params") if line.row]
        parts = [trial_id, line.note, *figures, duration(line.elapsed_s())]
        text = "  ".join(part for part in parts if part)
        self._print(f"{status:12} {text}  ({self._board.tally()})")


class LiveMonitor:
    """A compact table, redrawn in place, and a progress bar for the dense model."""

    def __init__(
        self, console: Console, specs: Sequence[TrialSpec], finished: Sequence[str]
    ) -> None:
        self._board = _Board(specs, finished)
        self._bar = Progress(
            TextColumn("dense model"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=console,
        )  # fmt: skip
        self._dense = self._bar.add_task("dense", total=None, visible=False, note="")
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=2, transient=False
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def dense(self, row: Mapping[str, Any]) -> None:
        self._bar.update(
            self._dense, visible=True, total=row["epochs"], completed=row["epoch"] + 1,
            note=f"val {row['val_acc']:.2%}",
        )  # fmt: skip

    def started(self, trial_id: str) -> None:
        self._board.start(trial_id)

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        self._board.update(trial_id, row)

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        self._board.end(trial_id, status, record)

    def render(self) -> RenderableType:
        """The display as it stands: the running trials, then those that ended last."""
        lines = self._board.lines
        running = [t for t in lines if lines[t].status == "running"]
        ended = [t for t in lines if lines[t].ended is not None]
        ended.sort(key=lambda t: lines[t].ended or 0.0, reverse=True)
        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        # Fixed widths: a long note would squeeze the figures, and jumping columns read badly.
        for name, width, right in COLUMNS:
            justify: Literal["right", "left"] = "right" if right else "left"
            table.add_column(name, width=width, justify=justify, no_wrap=True)
        table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
        for trial_id in [*running, *ended[:ENDED_ROWS]]:
            table.add_row(*_cells(lines[trial_id]))
        clock = duration(time.monotonic() - self._board.started)
        parts: list[RenderableType] = [self._bar] if self._bar.tasks[0].visible else []
        parts += [table] if running or ended else []
        return Group(*parts, Text(f"{self._board.tally()}  {clock}", style="dim"))


def _cells(line: _Line) -> list[Text | str]:
    styles = {"finished": "green", "failed": "bold red", "interrupted": "yellow"}
    row = line.row
    return [
        Text(line.name),
        Text(line.status, style=styles.get(line.status, "")),
        line.progress(),
        f"{row['val_acc']:.2%}" if "val_acc" in row else "",
        count(row["searches"]) if "searches" in row else "",
        count(row["params"]) if "params" in row else "",
        duration(line.elapsed_s()),
        Text(line.note),
    ]


def count(number: int) -> str:
    """A number with three digits' worth: 950, 123 k, 10.7 M."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= limit:
            scaled = number / (1000 if unit == "k" else limit)
            text = f"{scaled:#.3g}".rstrip(".") if scaled < 999.5 else f"{scaled:.0f}"
            return f"{text} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
