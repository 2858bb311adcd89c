import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from study.execution.lock import driver_lock, holder, trial_lock
from study.execution.provenance import repository
from study.store import Results

pytestmark = pytest.mark.timeout(60)

HOLD_ROOT = """
with driver_lock(Path(sys.argv[1])):
    {inside}
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@contextmanager
def process(code: str, *arguments: Any, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A Python of its own that has this module's names; dead at the end."""
    names = "import os, subprocess, sys, time\nfrom pathlib import Path\n"
    names += "from study.execution.lock import driver_lock, holder, trial_lock\n"
    running = subprocess.Popen(
        [sys.executable, "-c", names + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(repository())},
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def told(running: subprocess.Popen[str]) -> str:
    """The next line of a process."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with process(HOLD_ROOT.format(inside="pass"), tmp_path) as first:
        pid = told(first)
        with pytest.raises(ValueError) as refusal, driver_lock(tmp_path):
            pass
        text = str(refusal.value)
        assert "--results, --resume" in text and str(tmp_path) in text
        assert f"process {pid} on {socket.gethostname()}, since 20" in text
        there = holder(tmp_path)
        assert there is not None
        assert (there["pid"], there["host"]) == (int(pid), socket.gethostname())
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT.*", there["since"])


def test_a_killed_driver_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    with process(HOLD_ROOT.format(inside="pass"), tmp_path) as first:
        told(first)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert holder(tmp_path) is None
        with driver_lock(tmp_path):
            there = holder(tmp_path)
            assert there is not None and there["pid"] == os.getpid()
    assert holder(tmp_path) is None


@pytest.mark.parametrize(
    "start",
    [
        # As Ray starts its raylet, and as a loader of PyTorch starts its workers.
        "child = subprocess.Popen(['sleep', '60']).pid",
        "child = os.fork() or os.execvp('sleep', ['sleep', '60'])",
        "child = os.fork() or time.sleep(60)",
    ],
    ids=["spawned", "fork and exec", "forked"],
)
def test_a_child_that_outlives_the_driver_does_not_keep_its_lock(
    tmp_path: Path, start: str
) -> None:
    code = HOLD_ROOT.format(inside=f"{start}\n    print(child, flush=True)")
    with process(code, tmp_path) as first:
        child = int(told(first))
        try:
            told(first)
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert alive(child)
            with driver_lock(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_looking_does_not_disturb(tmp_path: Path) -> None:
    look = "print('looking', flush=True)\nwhile True:\n    holder(Path(sys.argv[1]))\n"
    assert holder(tmp_path / "nowhere") is None
    with driver_lock(tmp_path):
        pass
    with process(look, tmp_path) as other:
        told(other)
        for _ in range(20):
            with driver_lock(tmp_path):
                pass
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_leaves_a_fresh_directory_fit_for_a_study(
    tmp_path: Path, tiny_experiment: Any
) -> None:
    root = tmp_path / "results"
    root.mkdir()
    with driver_lock(root):
        # As after a kill before the study had begun: the note is still there.
        assert len(list(root.iterdir())) == 2
        assert Results(root).check(tiny_experiment) is None
    assert [path.name for path in root.iterdir()] == ["driver.lock"]


def test_what_cannot_be_a_results_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with (
        pytest.raises(ValueError, match="--results: got .*file.*; it is a file"),
        driver_lock(file),
    ):
        pass


def as_nobody(code: str) -> str:
    """Code that gives up the rights that would let it write anywhere."""
    return "os.geteuid() or os.setuid(65534)\n" + code


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    enter = "try:\n    driver_lock(Path('.')).__enter__()\n"
    code = as_nobody(f"{enter}except ValueError as error:\n    print(error)")
    with process(code, cwd=tmp_path) as other:
        assert told(other) == "--results: cannot write to or lock . (Permission denied)"
    tmp_path.chmod(0o755)


def test_who_may_not_lock_believes_the_note_of_a_living_process(tmp_path: Path) -> None:
    look = as_nobody("there = holder(Path('.'))\nprint(there and there['pid'])")
    with process(HOLD_ROOT.format(inside="pass"), tmp_path) as first:
        pid = told(first)
        (tmp_path / "driver.lock").chmod(0o444)
        (tmp_path / ".driver.json").chmod(0o444)
        tmp_path.chmod(0o555)
        with process(look, cwd=tmp_path) as other:
            assert told(other) == pid
        first.send_signal(signal.SIGKILL)
        first.wait()
        with process(look, cwd=tmp_path) as other:
            assert told(other) == "None"
    tmp_path.chmod(0o755)


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", missing)
    with pytest.raises(ValueError, match="cannot write to or lock .*not implemented"):
        with driver_lock(tmp_path):
            pass


def test_a_worker_waits_for_its_dying_predecessor(tmp_path: Path) -> None:
    hold = (
        "with trial_lock(Path(sys.argv[1]), 0):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    folder = tmp_path / "trials" / "one"
    with process(hold, folder) as first:
        assert told(first) == "held"
        with process(
            "print('waiting', flush=True)\n"
            "with trial_lock(Path(sys.argv[1]), float('inf')):\n    print('mine', flush=True)",
            folder,
        ) as second:
            assert told(second) == "waiting"
            time.sleep(0.3)
            assert second.poll() is None
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert told(second) == "mine"
            second.wait()
    assert [path.name for path in folder.iterdir()] == [".worker.lock"]


def test_a_worker_that_waited_in_vain_names_the_other(tmp_path: Path) -> None:
    with trial_lock(tmp_path, 0):
        note = json.loads((tmp_path / ".worker.json").read_text())
        assert note["pid"] == os.getpid()
        with pytest.raises(TimeoutError) as refusal, trial_lock(tmp_path, 0.1):
            pass
    text = f"{tmp_path}: still in use after 0.1 s by process {os.getpid()} on "
    assert str(refusal.value).startswith(text)


def test_the_lock_ends_with_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), driver_lock(tmp_path):
        raise RuntimeError("on purpose")
    assert holder(tmp_path) is None


def test_a_folder_that_was_made_for_the_lock_alone_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "results" / "new"
    with pytest.raises(ValueError, match="refused"), driver_lock(root):
        assert root.is_dir()
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    # One that was there stays, and so does one in which something was written.
    root.mkdir(parents=True)
    with driver_lock(root):
        pass
    assert root.is_dir()
    other = tmp_path / "other"
    with driver_lock(other):
        (other / "study.json").touch()
    assert {path.name for path in other.iterdir()} == {"study.json", "driver.lock"}
