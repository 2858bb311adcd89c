import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adacomcat.config import TrialConfig
from adacomcat.io.run import InUseError, LogFile, Run, UnreadableError, lock, new_record
from adacomcat.io.trace import EPOCHS

SEARCH = {"name": "search", "argv": ["search"]}


def record_of(**more: Any) -> dict[str, Any]:
    names = dict.fromkeys(("trial_id", "experiment", "workload", "arm", "label"), "x")
    return new_record(TrialConfig().to_json(), **names, leakage=(), **more)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of the command line in a folder with a space and a quote in its name."""
    made = Run(tmp_path / "it's a run")
    made.write(record_of(command=SEARCH, status="running"))
    return made


def write_epochs(run: Run, count: int) -> None:
    text = "".join(json.dumps({"step_epoch": step}) + "\n" for step in range(count))
    (run.path / EPOCHS).write_text(text)


# Records.


def test_a_record_comes_back(run: Run) -> None:
    assert run.status == "running" and run.config() == TrialConfig()
    run.update("finished", summary={"test_acc": 1.0})
    assert run.status == "finished" and run.record()["summary"] == {"test_acc": 1.0}
    assert run.record()["command"] == SEARCH
    assert Run(run.path / "nowhere").status == "pending"


@pytest.mark.parametrize(
    ("change", "message", "short"),
    [
        (lambda text: text[:-20], "not JSON", "not JSON"),
        (lambda text: "[]", "a JSON object", "not JSON"),
        (lambda text: "{}", "schema_version: got None", "without a schema version"),
        (
            lambda text: text.replace('"schema_version": 2', '"schema_version": 99'),
            "schema_version: got 99, allowed: up to 2",
            "of schema 99",
        ),
        (lambda text: text.replace('"status"', '"st"'), "status: got nothing", "without status"),
        (
            lambda text: text.replace('"seed": 0', '"seed": "0"'),
            "seed: got '0'",
            "of a strange seed",
        ),
    ],
)
def test_a_damaged_record_is_named(run: Run, change: Any, message: str, short: str) -> None:
    path = run.path / "trial.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UnreadableError) as caught:
        run.record()
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert caught.value.short.startswith(short)


def test_a_damaged_configuration_is_named(run: Run) -> None:
    path = run.path / "trial.json"
    path.write_text(path.read_text().replace("finetune", "fintune"))
    with pytest.raises(ValueError, match="did you mean 'finetune'"):
        run.config()


def test_a_place_for_output(run: Run, tmp_path: Path) -> None:
    Run(tmp_path / "new").refuse_used()
    (tmp_path / "empty").mkdir()
    Run(tmp_path / "empty").refuse_used()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--output: got .*file', allowed: a new directory$"):
        Run(tmp_path / "file").refuse_used()
    go_on = """to go on with this one: adacomcat search --resume '.*/it'"'"'s a run'$"""
    with pytest.raises(ValueError, match=go_on):
        run.refuse_used()


def test_a_run_that_is_not_finished_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=": running, not finished; to go on: adacomcat search "):
        run.require_finished()
    run.update("finished")
    run.require_finished()
    Run(tmp_path).require_finished()  # A model that somebody saved.
    trial = Run(tmp_path / "results" / "trials" / "one")
    trial.write(record_of(status="failed"))
    with pytest.raises(ValueError, match=r": adacomcat study --resume .*/results$"):
        trial.require_finished()


def test_an_ended_run_has_its_whole_trace(run: Run) -> None:
    write_epochs(run, 3)
    run.update("finished", summary={"epochs": 3, "searches": 0})
    assert run.missing_rows() == ""
    write_epochs(run, 2)
    assert run.missing_rows() == "2 of 3 epochs"
    run.update("stopped", stopped={"rung": 2})
    assert run.missing_rows() == ""
    write_epochs(run, 1)
    assert run.missing_rows() == "1 of 2 epochs"
    (run.path / EPOCHS).write_text("nonsense\n")
    assert run.missing_rows().startswith(f"{run.path / EPOCHS}, line 1: not JSON")
    (run.path / EPOCHS).unlink()
    run.update("finished", summary={"epochs": 0, "searches": 1})
    assert run.missing_rows() == "0 of 1 searches"
    # Before the summaries told how many there are.
    run.update("finished", summary={})
    assert run.missing_rows() == ""


# Locks and logs.

HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from adacomcat.io.run import lock
with lock(Path(sys.argv[1]), float(sys.argv[2])):
    {inside}
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def process(path: Path, wait_s: float = 0, inside: str = "pass") -> Iterator[subprocess.Popen[str]]:
    """A Python of its own that takes a lock; dead at the end."""
    words = [sys.executable, "-c", HOLD.format(inside=inside), str(path), str(wait_s)]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def told(running: subprocess.Popen[str]) -> str:
    """The next line of a process."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def test_one_process_at_a_time(run: Run) -> None:
    with run.locked():
        with pytest.raises(InUseError, match="it's a run: another process is at work here"):
            with Run(run.path).locked(0.1):
                pass
    with pytest.raises(RuntimeError, match="on purpose"), run.locked():
        raise RuntimeError("on purpose")
    with run.locked():
        pass


@pytest.mark.parametrize(
    "start",
    [
        "pass",
        # As Ray starts its raylet, and as a loader of PyTorch starts its workers.
        "child = subprocess.Popen(['sleep', '60']).pid",
        "child = os.fork() or os.execvp('sleep', ['sleep', '60'])",
        "child = os.fork() or time.sleep(60)",
    ],
    ids=["no child", "spawned", "fork and exec", "forked"],
)
def test_a_killed_process_leaves_its_lock_free_whatever_its_children_do(
    tmp_path: Path, start: str
) -> None:
    path = tmp_path / "a.lock"
    inside = start if start == "pass" else f"{start}\n    print(child, flush=True)"
    with process(path, inside=inside) as first:
        child = None if start == "pass" else int(told(first))
        try:
            assert told(first) == "held"
            with pytest.raises(InUseError), lock(path):
                pass
            first.send_signal(signal.SIGKILL)
            first.wait()
            # A child that was just forked has it for a moment.
            with lock(path, 10):
                pass
        finally:
            if child is not None:
                os.kill(child, signal.SIGKILL)


def test_a_process_waits_for_its_dying_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with process(path) as first:
        assert told(first) == "held"
        with process(path, wait_s=float("inf")) as second:
            time.sleep(0.3)
            assert second.poll() is None
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert told(second) == "held"


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", missing)
    with pytest.raises(OSError, match="not implemented"), lock(tmp_path / "a.lock"):
        pass


def test_a_log_that_cannot_be_written_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    log = LogFile("/dev/full")
    for _ in range(2):
        log.handle(logging.makeLogRecord({"msg": "a line", "levelno": logging.ERROR}))
    log.close()
    assert capfd.readouterr() == ("", "")


def test_any_other_trouble_with_a_log_shows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = LogFile(tmp_path / "a.log")
    log.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    log.close()
    assert capfd.readouterr().err.count("--- Logging error ---") == 1
