import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from study.execution import watch
from study.execution.watch import Watch


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.01)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def wait_for_loss(seen: Watch) -> str | None:
    until = time.monotonic() + 60
    while seen.lost is None and time.monotonic() < until:
        time.sleep(0.01)
    return seen.lost


def test_a_process_that_answers_no_more_is_named(server: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoints = {"gcs_server": other.getsockname(), "raylet": server.getsockname()}
        with Watch(endpoints, 0.0, pytest.fail) as seen:
            time.sleep(0.2)
            # It accepts nothing by itself, as a process that is stopped; its kernel does.
            assert seen.lost is None
            server.close()
            assert wait_for_loss(seen) == "raylet"
            seen.settle()


def test_a_silence_that_is_short_is_no_loss(server: socket.socket) -> None:
    host, port = server.getsockname()
    with Watch({"gcs_server": (host, port)}, 60.0, pytest.fail) as seen:
        server.close()
        time.sleep(0.2)
        assert seen.lost is None


STUCK = """
import os, sys, time
from study.execution import watch
watch.EVERY_S, watch.LEAVE_S = 0.01, 0.1
def abandon(lost):
    print("abandoned", lost, flush=True)
    os._exit(7)
with watch.Watch({"raylet": ("127.0.0.1", int(sys.argv[1]))}, 0.0, abandon):
    time.sleep(600)
"""


def test_a_driver_that_does_not_hear_of_a_loss_is_abandoned(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    command = [sys.executable, "-c", STUCK, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "abandoned raylet\n")
