"""What the user sees while a study runs: a live table, or without a terminal a line an event."""

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adacomcat.io.run import Status
from study.show.board import Board, Line
from study.spec.expand import expand
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

EPOCH_LINE_EVERY_S = 30.0
"""Without a terminal, a trial's epochs are told at most this often."""
ENDED_ROWS = 8
"""Ended trials that the live table keeps in sight."""
OTHER_ROWS = 7
"""Of the live display: what is not the table's trials."""
COLUMNS = (
    ("trial", 16, False),
    ("state", 14, False),
    ("val", 7, True),
    ("searches", 8, True),
    ("params", 7, True),
    ("time", 7, True),
)
"""Of the live table: name, width, whether it is aligned to the right."""
STYLES = {"finished": "green", "stopped": "cyan", "failed": "bold red", "interrupted": "yellow"}


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

    def started(self, spec: TrialSpec) -> None:
        """A trial has a worker, or waits in one for the other seeds of its arm."""

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """A row of `epochs.jsonl`; some may be left out."""

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        """A trial is over; `record` is its `trial.json`. Once is enough, twice is no harm."""


def make_monitor(
    console: Console, experiment: Experiment, results: Results, *, quiet: bool = False
) -> Monitor:
    """The display that fits: a live table on a terminal, else lines, or failures alone.

    Args:
        console: where it goes.
        experiment: says which trials, or how many, there will be.
        results: says which have ended already.
        quiet: print nothing but failures.
    """
    exploration = experiment.exploration
    arms = len(experiment.arms) + (exploration.samples if exploration else 0)
    board = Board(
        expand(experiment),
        trials=arms * len(experiment.seeds),
        records=results.trials(),
        in_turn=exploration is not None,
        objectives=exploration.objectives if exploration else (),
        seeds=len(experiment.seeds),
    )
    if quiet:
        return QuietMonitor(console, board)
    return LiveMonitor(console, board) if console.is_terminal else PlainMonitor(console, board)


class PlainMonitor:
    """A line an event, for logs and pipes."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console, self._board = console, board

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def _print(self, *parts: str) -> None:
        clock = duration(time.monotonic() - self._board.started)
        text = "  ".join(part for part in (f"{clock:>8}", *parts) if part)
        # Whatever a message holds, it is no markup; and a log must not be folded.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def dense(self, row: Mapping[str, Any]) -> None:
        epoch, epochs = row["epoch"] + 1, row["epochs"]
        if epoch == epochs or epoch % max(1, epochs // 10) == 0:
            self._print(f"dense model {epoch}/{epochs}", f"val {row['val_acc']:.2%}")

    def started(self, spec: TrialSpec) -> None:
        self._board.start(spec).told = time.monotonic()
        self._print("started     ", spec.trial_id)

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        line = self._board.update(trial_id, row)
        if time.monotonic() - line.told >= EPOCH_LINE_EVERY_S:
            line.told = time.monotonic()
            accuracy = f"val {row['val_acc']:.2%}"
            self._print(f"{line.progress():12}", trial_id, accuracy, *_figures(line), self._left())

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        line = self._board.end(trial_id, status, record)
        if line is not None:
            took = duration(line.elapsed_s())
            sums = [tally(self._board), self._left(), best(self._board)]
            study = [f"| {text}" for text in sums if text]
            self._print(f"{status:12}", trial_id, line.note, *_figures(line), took, *study)

    def _left(self) -> str:
        left_s = self._board.left_s()
        return "" if left_s is None else f"about {duration(left_s)} left"


class QuietMonitor:
    """Failures alone."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console, self._board = console, board

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def dense(self, row: Mapping[str, Any]) -> None:
        return

    def started(self, spec: TrialSpec) -> None:
        self._board.start(spec)

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        return

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        line = self._board.end(trial_id, status, record)
        if line is not None and status == "failed":
            text = f"failed  {trial_id}  {line.note}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveMonitor:
    """A compact table, redrawn in place, above what the study has come to."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console, self._board = console, board
        self._dense: Mapping[str, Any] | None = None
        # The display is drawn by a thread of its own.
        self._lock = threading.Lock()
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=2, transient=False
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def dense(self, row: Mapping[str, Any]) -> None:
        with self._lock:
            self._dense = row

    def started(self, spec: TrialSpec) -> None:
        with self._lock:
            self._board.start(spec)

    def epoch(self, trial_id: str, row: Mapping[str, Any]) -> None:
        with self._lock:
            self._board.update(trial_id, row)

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        with self._lock:
            self._board.end(trial_id, status, record)

    def render(self) -> RenderableType:
        """The display as it stands: running trials, those that ended last, and the sums."""
        with self._lock:
            parts: list[RenderableType] = []
            active, ended = self._board.active(), self._board.ended()
            # What does not fit is cut off at the bottom, where the sums are.
            room = max(1, self._console.height - OTHER_ROWS)
            shown = active[:room]
            shown += ended[: min(ENDED_ROWS, room - len(shown))]
            if shown:
                parts.append(_table(shown))
            if len(active) > room:
                parts.append(Text(f"and {len(active) - room} more that run", style="dim"))
            parts.append(self._progress())
            sums = [tally(self._board), best(self._board)]
            parts += [Text(text, no_wrap=True, overflow="ellipsis") for text in sums if text]
            return Group(*parts)

    def _progress(self) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        # Jumping columns read badly.
        for width in (11, 20, None, None):
            grid.add_column(width=width, no_wrap=True)
        if self._dense is not None:
            done, total = self._dense["epoch"] + 1, self._dense["epochs"]
            accuracy = f"val {self._dense['val_acc']:.2%}"
            bar = ProgressBar(total=total, completed=done)
            grid.add_row("dense model", bar, f"{done}/{total} epochs", accuracy)
        done, total = self._board.epochs()
        clock = duration(time.monotonic() - self._board.started)
        left_s = self._board.left_s()
        left = "" if left_s is None else f", about {duration(left_s)} left"
        bar = ProgressBar(total=total, completed=done)
        grid.add_row("trials", bar, f"{done}/{total} epochs", f"{clock}{left}")
        return grid


def _table(lines: list[Line]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    # Fixed widths: a long note would squeeze the figures, and jumping columns read badly.
    for name, width, right in COLUMNS:
        justify: Literal["right", "left"] = "right" if right else "left"
        table.add_column(name, width=width, justify=justify, no_wrap=True, overflow="ellipsis")
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for line in lines:
        state = line.progress() if line.ended is None else line.status
        if line.status in ("stopped", "failed") and line.row:
            state += f" {line.row['step_epoch'] + 1}/{line.total}"
        row = line.row
        table.add_row(
            Text(line.name),
            Text(state or "starting", style=STYLES.get(line.status, "")),
            f"{row['val_acc']:.2%}" if row else "",
            count(row["searches"]) if row else "",
            count(row["params"]) if row else "",
            duration(line.elapsed_s()),
            Text(line.note),
        )
    return table


def _figures(line: Line) -> list[str]:
    return [f"{name} {count(line.row[name])}" for name in ("searches", "params") if line.row]


def tally(board: Board) -> str:
    """How far the trials are: `5/24 trials done (1 stopped), 2 running`."""
    active, stopped = len(board.active()), board.count("stopped")
    counts = {
        "running": active,
        "waiting": board.count("running") - active,
        "failed": board.count("failed"),
        "interrupted": board.count("interrupted"),
    }
    note = f" ({stopped} stopped)" if stopped else ""
    parts = [f"{board.over()}/{board.trials} trials done{note}"]
    return ", ".join([*parts, *(f"{number} {name}" for name, number in counts.items() if number)])


def best(board: Board) -> str:
    """The best finished trial by validation accuracy, and the size of the front."""
    parts = []
    if board.best is not None:
        made = board.best
        searches = f"{made.searches} search{'' if made.searches == 1 else 'es'}"
        parts.append(
            f"best val {made.val_acc:.2%} ({made.name}, {searches}, {count(made.params)} params)"
        )
    front = board.front()
    if front:
        parts.append(f"front of {len(front)} arm{'' if len(front) == 1 else 's'}")
    return ", ".join(parts)


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
