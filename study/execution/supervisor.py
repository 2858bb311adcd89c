"""Supervision of a study: restarts after lack of memory or the loss of Ray."""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from adacomcat.cli.process import FAILED
from study.execution import cluster, memory
from study.execution.causes import MemoryShort, behind, is_memory_short, is_of_ray
from study.execution.disk import is_disk_full
from study.execution.placement import Placement
from study.execution.watch import Watch

logger = logging.getLogger(__name__)

RESTARTS = 3
"""Largest number of consecutive restarts of a lost Ray."""
SHORTAGES = 10
"""Largest number of consecutive restarts after lack of memory."""
ALONE_DEATHS = 2
"""Consecutive times that a trial may run out of memory while no other runs."""
MEMORY_WAIT_S = 600.0
"""Longest wait for memory that other processes use."""
PAUSE_S = 5.0
"""Pause before the second consecutive start; doubled for each further one."""
LONGEST_PAUSE_S = 60.0
AGAIN = "what was recorded is whole; --resume, or the same command, goes on"


class Halt(BaseException):
    """Ends Tune's loop at once, for the reason that is its cause.

    It is no Exception: Tune takes those for a trial's, or tries for minutes to clean up after them.
    """


class DiskFull(OSError):
    """Nothing more can be recorded; finished trials are complete."""


class GivenUp(OSError):
    """The study cannot continue for now; everything recorded is complete."""


class Supervised(Protocol):
    """A study that can be run again after a part of the run was lost."""

    def run(self, placement: Placement, watch: Watch) -> None:
        """Run the remaining trials; ends early with `Halt` or an error of Ray."""

    def rows(self) -> int:
        """Number of recorded epochs."""

    def running(self) -> Sequence[str]:
        """The trials that were running when the last run ended."""

    def fail(self, trial_ids: Sequence[str], error: Exception) -> None:
        """Record trials as failed, and run them no more."""

    def mark_interrupted(self) -> None:
        """Record that the running trials were stopped."""


class Supervisor:
    """Runs a study to its end, with restarts after lack of memory or the loss of Ray.

    After the first want of memory it goes on with as many trials at once as before, after each
    further one with half of them. A trial that dies of memory `ALONE_DEATHS` times while no other
    runs has failed. A lost Ray is started again `RESTARTS` times. What counts are losses in a row:
    an epoch that was recorded in between begins a new one.
    """

    def __init__(
        self,
        study: Supervised,
        root: str,
        placement: Placement,
        restart: Callable[[], Placement] | None,
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            study: what is run.
            root: its results directory.
            placement: of its trials.
            restart: starts Ray again; None where this process found one running.
            say: takes a line for the user.
        """
        self._study, self._root, self._placement = study, root, placement
        self._restart, self._say = restart, say
        self._rows = study.rows()
        self._in_row = self._alone = self._shortages = 0

    def run(self) -> None:
        """Run the study to its end.

        Raises:
            KeyboardInterrupt: after what was running was marked `interrupted`, as before each of
                the following.
            DiskFull: nothing more can be recorded.
            GivenUp: memory or Ray was lost too often in a row.
        """
        try:
            while (loss := self._attempt()) is not None:
                self._recover(loss)
        except BaseException:
            # First the workers, then the records: a worker must not write after us.
            cluster.stop()
            with suppress(OSError):  # A full disk.
                self._study.mark_interrupted()
            raise

    def _attempt(self) -> Exception | None:
        """Run the remaining trials.

        Returns:
            None at the end; else `MemoryShort` or `ConnectionError`, which names what died.
        """
        endpoints, patience_s = cluster.endpoints()
        with Watch(endpoints, patience_s, self._abandon) as watch:
            try:
                self._study.run(self._placement, watch)
                return None
            except (Exception, Halt) as error:
                if is_disk_full(error):
                    full = "no space left, read-only, or not permitted"
                    text = f"cannot write to {self._root} ({full}); what was finished is whole"
                    raise DiskFull(text) from error
                if is_memory_short(error):
                    logger.warning("memory", exc_info=error)
                    return MemoryShort(str(error.__cause__ or error))
                if watch.lost is None and any(map(is_of_ray, behind(error))):
                    watch.settle()
                if watch.lost is None:
                    raise
                return ConnectionError(watch.lost)

    def _recover(self, loss: Exception) -> None:
        """Report the loss, and restart."""
        rows = self._study.rows()
        if rows > self._rows:
            self._rows, self._in_row, self._alone = rows, 0, 0
        self._in_row += 1
        if isinstance(loss, MemoryShort):
            said = self._after_shortage(loss)
        else:
            said = self._after_death(f"Ray's {loss} has died")
        logger.warning(said)
        self._say(said)
        if self._restart is not None:
            cluster.stop()
        if self._in_row > 1:
            time.sleep(min(PAUSE_S * 2 ** (self._in_row - 2), LONGEST_PAUSE_S))
        self._wait_for_memory()
        if self._restart is not None:
            try:
                again = self._restart()
            except (ValueError, OSError, RuntimeError) as error:
                raise GivenUp(f"Ray does not start again: {error}; {AGAIN}") from error
            concurrent = min(again.concurrent, self._placement.concurrent)
            self._placement = replace(again, concurrent=concurrent)

    def _after_shortage(self, loss: MemoryShort) -> str:
        what = "Ray stopped workers because this machine was short of memory"
        if self._in_row > SHORTAGES:
            raise GivenUp(f"{what}, {self._in_row} times in a row; {AGAIN}")
        self._shortages += 1
        concurrent, running = self._placement.concurrent, self._study.running()
        if concurrent > 1:
            if self._shortages > 1:
                concurrent //= 2
                self._placement = replace(self._placement, concurrent=concurrent)
            return f"{what}; going on with {concurrent} trial{'s' * (concurrent > 1)} at once"
        self._alone += bool(running)
        if self._alone < ALONE_DEATHS:
            return f"{what}; going on with 1 trial at once"
        self._study.fail(running, loss)
        self._in_row = self._alone = 0
        return f"{what}, though only {running[0]} ran; going on without it"

    def _after_death(self, what: str) -> str:
        if self._restart is None or self._in_row > RESTARTS:
            often = f", {self._in_row} times in a row" if self._in_row > 1 else ""
            raise GivenUp(f"{what}{often}; {AGAIN}")
        return f"{what}; starting Ray again ({self._in_row} of {RESTARTS})"

    def _wait_for_memory(self) -> None:
        until = time.monotonic() + MEMORY_WAIT_S
        while memory.is_short():
            if time.monotonic() > until:
                raise GivenUp(f"this machine's memory is used up, by others; {AGAIN}")
            time.sleep(1.0)

    def _abandon(self, lost: str) -> None:
        """End this process, whose main thread hangs in a call of Ray's that never comes back."""
        with suppress(Exception):
            self._study.mark_interrupted()
            print(f"error: Ray's {lost} has died; {AGAIN}", file=sys.stderr, flush=True)
        os._exit(FAILED)
