"""`study.log`: warnings, and output that the console does not show."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from adacomcat.io.run import LogFile

logger = logging.getLogger(__name__)


@contextmanager
def study_log(path: Path) -> Iterator[None]:
    """A block in which warnings, log records and Ray's output go to a file.

    None is lost, and none spoils the display.
    """
    handler = LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, ray = logging.getLogger(), logging.getLogger("ray")
    before = ray.handlers, ray.propagate
    root.addHandler(handler)
    ray.handlers, ray.propagate = [], True
    logging.captureWarnings(True)
    try:
        # There may be none: a process can be started with it closed.
        with redirect_stdout(_WithoutRay(sys.stdout)) if sys.stdout else nullcontext():
            yield
    finally:
        logging.captureWarnings(False)
        ray.handlers, ray.propagate = before
        root.removeHandler(handler)
        handler.close()


class _WithoutRay:
    """Standard output without the output of Ray's threads, such as last lines of a dead raylet.

    Ray prints these also where `log_to_driver` is off.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            if text.strip():
                logger.warning("%s", text.rstrip())
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
