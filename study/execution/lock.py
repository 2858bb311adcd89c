"""Who may write: one driver a results directory, one worker a trial's folder.

The locks are `flock`s (by the library `filelock`), which end with the process that holds them,
however it ends: nothing is left to clear after a kill or a reboot. Beside the lock lies a note of
who holds it, which is for messages alone.

    RESULTS/driver.lock, RESULTS/.driver.json
    RESULTS/trials/<trial id>/.worker.lock, .worker.json

Over a network: Linux passes a flock of NFS on to the server (flock(2); not when mounted `nolock` or
with `local_lock`), so drivers on two hosts see each other, and the lock of a host that has crashed
is free when its lease is over. Lustre needs the mount option `flock`. Where a file system keeps
locks to each host, as FUSE mounts of object stores do, two drivers on two hosts are not told apart.
"""

import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adacomcat.checks import require
from adacomcat.files import atomic_write_json
from study.store import now

DRIVER_WAIT_S = 1.0
"""Who only looks at a lock (`holder`) has it for a moment, and must not turn a driver away."""
POLL_S = 0.05


@contextmanager
def driver_lock(root: Path) -> Iterator[None]:
    """Hold a results directory, made if missing, against every other driver.

    One that was made for the lock, and into which nothing was written, is removed again.

    Raises:
        ValueError: another driver has it (its process, host and start are named), or it cannot be
            locked: no directory, not writable, or a file system without locks.
    """
    require(root.is_dir() or not root.exists(), "--results", str(root), "a directory; it is a file")
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    lock = _Lock(root, "driver")
    try:
        lock.acquire(DRIVER_WAIT_S)
    except Timeout:
        raise ValueError(
            f"--results, --resume: got {str(root)!r}, allowed: a directory with no driver at work; "
            f"in this one it is {lock.who()} (--status tells how far it is)"
        ) from None
    except OSError as error:
        raise ValueError(f"--results: cannot write to or lock {root} ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()
        if made and [path.name for path in root.iterdir()] == [lock.path.name]:
            lock.path.unlink()
            for folder in made:
                folder.rmdir()


@contextmanager
def trial_lock(folder: Path, wait_s: float) -> Iterator[None]:
    """Hold a trial's folder, made if missing, against every other worker.

    Args:
        folder: the trial's.
        wait_s: how long to wait for another worker, such as one that outlives its killed driver;
            may be infinite.

    Raises:
        TimeoutError: another worker still has it; its process, host and start are named.
        OSError: the folder cannot be written.
    """
    lock = _Lock(folder, ".worker")
    try:
        lock.acquire(wait_s)
    except Timeout:
        message = f"{folder}: still in use after {wait_s:g} s by {lock.who()}"
        raise TimeoutError(message) from None
    try:
        yield
    finally:
        lock.release()


def holder(root: Path) -> dict[str, Any] | None:
    """The driver at work on a results directory: `pid`, `host`, `since`; None where there is none.

    What it has not told is None. Where this user may not lock, its note is believed, unless the
    process is known to be gone.
    """
    lock = _Lock(root, "driver")
    if not lock.path.exists():
        return None
    try:
        lock.try_now()
    except Timeout:
        return lock.note()
    except OSError:
        return lock.note() if lock.note_may_hold() else None
    return None


class _Lock:
    """A lock in a folder, and the note of who holds it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.lock"
        self._note = folder / f".{name.removeprefix('.')}.json"
        # The other way, a lock by the mere existence of a file, would outlive a killed process.
        self._lock = FileLock(self.path, fallback_to_soft=False)

    def acquire(self, wait_s: float) -> None:
        """Take the lock and leave the note.

        Raises:
            Timeout: it is taken.
            OSError: the folder cannot be written, or has no locks.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire(wait_s if math.isfinite(wait_s) else -1, poll_interval=POLL_S)
        try:
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
            atomic_write_json(self._note, who)
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        try:
            self._note.unlink(missing_ok=True)
        finally:
            self._lock.release()

    def try_now(self) -> None:
        """See whether the lock is free; raises as `acquire`."""
        self._lock.acquire(0.0)
        self._lock.release()

    def note(self) -> dict[str, Any]:
        """`pid`, `host` and `since` of the holder, as far as it has told."""
        try:
            told = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            told = {}
        return {name: told.get(name) for name in ("pid", "host", "since")}

    def note_may_hold(self) -> bool:
        """Whether the process of the note may be alive, as far as can be seen from here."""
        note = self.note()
        if note["pid"] is None:
            return False
        if note["host"] != socket.gethostname():
            return True
        try:
            os.kill(note["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # It is another user's.
            return True
        return True

    def who(self) -> str:
        """The holder in words."""
        note = self.note()
        if note["pid"] is None:
            return "a process that has not said who it is"
        return f"process {note['pid']} on {note['host']}, since {note['since']}"
