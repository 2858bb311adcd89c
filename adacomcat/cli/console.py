"""Console output of a command: one line per event, and progress bars on a terminal."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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

from adacomcat.cli.process import is_first

LOGGER = "adacomcat"


def make_display(*, json: bool) -> "Display":
    """The display of a command.

    Args:
        json: standard output is for JSON alone.
    """
    # A pipe has no width: rich would fold tables to 80 columns.
    width = None if sys.stdout and sys.stdout.isatty() else 160
    return Display(Console(width=width, stderr=json), first=is_first())


class Display:
    """Lines and bars on one console; shows nothing on workers that are not the first."""

    def __init__(self, console: Console, *, first: bool) -> None:
        self.console, self._first = console, first
        self._epochs: TaskID | None = None
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (first and console.is_terminal),
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show progress bars and log records during a block."""
        logger = logging.getLogger(LOGGER)
        handler, level, passed = _ToConsole(self), logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # What is shown here is not shown again by a handler of the root logger.
        logger.propagate = False
        try:
            with self._bars:
                yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = passed

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line, above the bars."""
        if self._first:
            self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that no worker keeps to itself."""
        who = "" if self._first else "another worker: "
        self.console.print(escape(who + text), style="bold yellow", highlight=False, soft_wrap=True)

    def start_epochs(self, total: int, done: int) -> None:
        """Show a bar of epochs."""
        self._epochs = self._bars.add_task("epochs", total=total, completed=done)

    def next_epoch(self) -> None:
        """One epoch is done."""
        if self._epochs is not None:
            self._bars.advance(self._epochs)

    def counted(self, batches: Iterable[Any], name: str, total: int | None) -> Iterator[Any]:
        """Pass batches through, with a bar."""
        bar = self._bars.add_task(name, total=total)
        try:
            for batch in batches:
                yield batch
                self._bars.advance(bar)
        finally:
            self._bars.remove_task(bar)

    def dense_epoch(self, row: dict[str, Any]) -> None:
        """Report an epoch of the dense model."""
        self.say(
            f"dense model: epoch {row['epoch'] + 1}/{row['epochs']}, loss {row['loss']:.4f}, "
            f"val {row['val_acc']:.2%}"
        )


class _ToConsole(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        loud = record.levelno >= logging.WARNING
        (self._display.warn if loud else self._display.say)(record.getMessage())
