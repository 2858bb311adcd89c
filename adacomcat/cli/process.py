"""Exit codes, signals and output streams of a command-line process; shared with the study."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EBADF, EIO, EPIPE
from types import FrameType
from typing import Any

from adacomcat.checks import NonFiniteLoss

OK, FAILED, USAGE = 0, 1, 2
"""Exit codes: success; a failure on the way (training, disk); a refused request."""
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_unread = logging.getLogger("output")
"""Outside the logger `adacomcat`, whose records a display writes to the streams."""
GONE = (EPIPE, EIO, EBADF)
"""Errors of writing to a closed pipe, a terminal that has hung up, or a closed stream."""


class Interrupted(KeyboardInterrupt):
    """Raised when a signal ends this process.

    Attributes:
        exit_code: 128 and the number of the signal, as shells have it: 130 after Ctrl-C, 143 after
            SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the block at the first SIGINT, SIGTERM or SIGHUP.

    Later ones are ignored up to the end of the block, so that what records the interruption is not
    interrupted in turn. A signal that is ignored already stays ignored (`nohup`). Without effect
    outside the main thread, where Python has no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    interrupted: Interrupted | None = None

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        for each in replaced:
            signal.signal(each, signal.SIG_IGN)
        interrupted = Interrupted(number)
        raise interrupted

    before = {each: signal.getsignal(each) for each in ENDING}
    replaced = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    for each in replaced:
        signal.signal(each, end)
    try:
        yield
    except KeyboardInterrupt as error:
        # Ray raises a new one in place of what a handler has raised within a call of its own.
        raise interrupted or error from None
    finally:
        for each in replaced:
            # None: a handler that Python did not install and cannot give back.
            signal.signal(each, before[each] or signal.SIG_DFL)


class _Stream:
    """A text stream that continues in the log, without an error, once its reader is gone."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._gone = stream, False
        self._unread = ""
        """Text since the last flush; once the stream is gone, an unfinished line of the log."""

    def write(self, text: str) -> int:
        self._unread += text
        with self._logged_when_gone():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._logged_when_gone():
            self._stream.flush()
            if not self._gone:
                self._unread = ""

    def isatty(self) -> bool:
        return not self._gone and bool(self._stream.isatty())

    @contextmanager
    def _logged_when_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._gone = True
            # What is still buffered goes there, also when Python flushes at its exit.
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
        if self._gone:
            *lines, self._unread = self._unread.split("\n")
            for line in filter(None, lines):
                _unread.info("%s", line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Let no output stream end the block: neither a closed pipe nor a narrow encoding.

    What nobody reads any more is logged, as INFO of the logger `output`. What the encoding lacks is
    written as an escape. A full disk stays an error.
    """
    with ExitStack() as stack:
        stack.callback(_unread.setLevel, _unread.level)
        _unread.setLevel(logging.INFO)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # The process was started with the stream closed.
                continue
            if hasattr(stream, "reconfigure"):
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Stream(stream))
            stack.callback(setattr, sys, name, stream)
        yield


def guarded(run: Callable[[], int]) -> int:
    """Run a command, and report its errors in one line on standard error.

    Args:
        run: gives the exit status.

    Returns:
        The exit status: of `run`; `USAGE` after a ValueError; `FAILED` after an OSError or a loss
        that is not finite; that of the signal after an interruption, of which `run` has spoken.
    """
    with tolerant_output():
        try:
            with interruptible():
                return run()
        except Interrupted as interrupted:
            return interrupted.exit_code
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (ValueError, OSError, NonFiniteLoss) as error:
            print(f"error{_worker()}: {error}", file=sys.stderr, flush=True)
            return USAGE if isinstance(error, ValueError) else FAILED


def environment_number(name: str, default: int) -> int:
    """A whole number in the environment, as torchrun sets it.

    Raises:
        ValueError: another text; it is named.
    """
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise ValueError(f"{name} (environment): got {text!r}, allowed: a whole number, or unset")
    return int(text)


def launched_workers() -> tuple[int, int]:
    """Rank of this process and number of workers, as torchrun has started them; (0, 1) without.

    Raises:
        ValueError: a variable of the environment that is no number.
    """
    rank, world = environment_number("RANK", 0), environment_number("WORLD_SIZE", 1)
    return (rank, world) if world > 1 else (0, 1)


def is_first() -> bool:
    """Whether this worker prints and writes."""
    return launched_workers()[0] == 0


def _worker() -> str:
    with suppress(ValueError):
        rank, _ = launched_workers()
        return f" (worker {rank})" if rank else ""
    return ""
