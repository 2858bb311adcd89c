"""Liveness checks of the processes that Ray depends on."""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

EVERY_S = 0.5
CONNECT_S = 3.0
LEAVE_S = 20.0
"""Time for the main thread to react to a loss: a call into Ray may never return."""

Endpoint = tuple[str, int]


class Watch:
    """Connects to each process again and again, in a thread, while its block runs.

    A Ray whose processes have died tells its driver nothing (the raylet), or ends it after a minute
    (the gcs_server). A process that only is busy or stopped still accepts connections.

    Attributes:
        lost: the name of the process that has not answered for too long.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        patience_s: float,
        abandon: Callable[[str], None],
    ) -> None:
        """
        Args:
            endpoints: name of a process -> host and port.
            patience_s: for how long a process may not answer.
            abandon: called with `lost` where the block has not ended long after the loss.
        """
        self.lost: str | None = None
        self._endpoints, self._patience_s, self._abandon = endpoints, patience_s, abandon
        self._left, self._known = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()

    def settle(self) -> None:
        """Wait until `lost` is known for sure, as of now."""
        self._known.wait(self._patience_s + len(self._endpoints) * CONNECT_S + EVERY_S)

    def _look(self) -> None:
        answered = dict.fromkeys(self._endpoints, time.monotonic())
        while not self._left.wait(EVERY_S):
            for name, endpoint in self._endpoints.items():
                if _answers(endpoint):
                    answered[name] = time.monotonic()
                elif time.monotonic() - answered[name] >= self._patience_s:
                    self.lost = name
                    self._known.set()
                    if not self._left.wait(LEAVE_S):
                        self._abandon(name)
                    return


def _answers(endpoint: Endpoint) -> bool:
    try:
        socket.create_connection(endpoint, timeout=CONNECT_S).close()
    except OSError:
        return False
    return True
