"""Run directories, shared by the command line and the study.

    trial.json        the record: status, configuration, provenance, summary
    epochs.jsonl      one row an epoch, see `adacomcat.io.trace`
    searches.jsonl    one row a search
    trial.log         a line an epoch, and warnings
    checkpoint/       what a resume needs
    model.safetensors, plan.json, config.json
                      the model of a finished run, for `adacomcat.load`

JSON files are replaced atomically and rows are written whole, so that a kill at any moment leaves a
directory that reads. Without torch: `analysis` reads results through this module.
"""

import json
import logging
import math
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from filelock import FileLock, Timeout

from adacomcat.checks import require
from adacomcat.config import DataConfig, TrialConfig
from adacomcat.files import atomic_write_json, check_writable
from adacomcat.io.trace import EPOCHS, SEARCHES, read_rows

RECORD, LOG = "trial.json", "trial.log"
SCHEMA_VERSION = 2
"""Version of `trial.json`, `study.json` and `study.yaml`; readers refuse newer ones."""
Status = Literal["pending", "running", "finished", "stopped", "failed", "interrupted"]
"""`stopped`: ended early by the pruner of an exploration."""
FINAL: frozenset[Status] = frozenset({"finished", "stopped"})
"""Statuses that a resume does not run again."""
FIELDS: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {
        "trial_id": str,
        "workload": str,
        "arm": str,
        "label": str,
        "seed": int,
        "status": str,
        "config": dict,
        "leakage": list,
        "provenance": (dict, type(None)),
        "started": (str, type(None)),
        "finished": (str, type(None)),
        "error": (str, type(None)),
        "summary": (dict, type(None)),
        "stopped": (dict, type(None)),
    }
)
"""Keys that every reader of a record relies on."""
POLL_S = 0.05


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class InUseError(ValueError, TimeoutError):
    """Another process writes to the same directory."""


class UnreadableError(ValueError):
    """A record that this version cannot read.

    Attributes:
        short: the cause in a few words that follow a number of trials, as in `2 of schema 7`.
    """

    def __init__(self, message: str, short: str) -> None:
        super().__init__(message)
        self.short = short


def check_version(content: Mapping[str, Any], field: str) -> None:
    """Refuse files of a newer version of this software.

    Raises:
        ValueError: no version, or one above `SCHEMA_VERSION`.
    """
    version = content.get("schema_version")
    known = type(version) is int and 1 <= version <= SCHEMA_VERSION
    allowed = f"up to {SCHEMA_VERSION}; a newer one needs a newer adacomcat"
    require(known, field, version, allowed)


def read_record(path: Path) -> dict[str, Any]:
    """The content of `trial.json` or `study.json`, its version checked and nothing else.

    Raises:
        UnreadableError: a file that cannot be read, is no JSON object, or has a newer schema.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})", "not read") from None
    except ValueError as error:
        raise UnreadableError(f"{path}: not JSON ({error})", "not JSON") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UnreadableError(f"{path}: got {kind!r}, allowed: a JSON object", "not JSON")
    try:
        check_version(content, f"{path}: schema_version")
    except ValueError as error:
        version = content.get("schema_version")
        short = f"of schema {version}" if isinstance(version, int) else "without a schema version"
        raise UnreadableError(str(error), short) from None
    return content


def read_trial(path: Path) -> dict[str, Any]:
    """The content of a `trial.json`; entries that older versions lack are filled in.

    Schema 1 knew no early end. What leaked was not written down at first: it follows from the
    configuration, as it does for a new trial, since a setting that an old one does not have did
    then what its default does now.

    Raises:
        UnreadableError: as `read_record`, or an entry that is missing or of another type.
    """
    record = read_record(path)
    record.setdefault("stopped", None)
    if "leakage" not in record and isinstance(record.get("config"), dict):
        record["leakage"] = _leakage(record["config"], path)
    for name, kind in FIELDS.items():
        if name not in record:
            raise UnreadableError(
                f"{path}: {name}: got nothing, allowed: a value", f"without {name}"
            )
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            wrong = f"{path}: {name}: got {record[name]!r}, allowed: another type"
            raise UnreadableError(wrong, f"of a strange {name}")
    return record


def _leakage(config: Mapping[str, Any], path: Path) -> list[str]:
    data = config.get("data")
    try:
        require(
            isinstance(data, dict), "config.data", data, "the settings that leakage is known by"
        )
        assert isinstance(data, dict)
        return list(DataConfig.from_json(data, "config.data").leakage)
    except ValueError as error:
        raise UnreadableError(f"{path}: {error}", "of unknown leakage") from None


@contextmanager
def lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file, made if missing, against every other process for the length of a block.

    The lock ends with the process that holds it, however that ends: nothing is left to clear.

    Over NFS, processes on two hosts see each other's locks unless it is mounted with `nolock` or
    `local_lock`; Lustre needs the mount option `flock`.

    Args:
        path: of the lock file, which stays.
        wait_s: how long to wait for another process; may be infinite.

    Raises:
        InUseError: another process still has it.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The other way, a lock by the mere existence of a file, would outlive a killed process.
    held = FileLock(path, fallback_to_soft=False)
    try:
        held.acquire(wait_s if math.isfinite(wait_s) else -1, poll_interval=POLL_S)
    except Timeout:
        raise InUseError(f"{path.parent}: another process is at work here") from None
    try:
        yield
    finally:
        held.release()


class LogFile(logging.FileHandler):
    """A log file that drops records that cannot be written, as on a full disk.

    Others would print a traceback over the display for every record, and raise at the end, over the
    error that says what has happened.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class Run:
    """A run's directory; one process writes to it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def exists(self) -> bool:
        return (self.path / RECORD).is_file()

    def record(self) -> dict[str, Any]:
        """The content of `trial.json`.

        Raises:
            UnreadableError: a record that is missing or does not read; see `read_trial`.
        """
        if not self.exists:
            missing = f"{self.path}: no directory of a run: it has no {RECORD}"
            raise UnreadableError(missing, f"without {RECORD}")
        return read_trial(self.path / RECORD)

    def config(self) -> TrialConfig:
        """The configuration in the record."""
        return TrialConfig.from_json(self.record()["config"])

    @property
    def status(self) -> Status:
        """Status of the run; `pending` without a record."""
        status: Status = self.record()["status"] if self.exists else "pending"
        return status

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace the record."""
        atomic_write_json(self.path / RECORD, record)

    def update(self, status: Status, **changes: Any) -> None:
        """Set the status and any other entries of the record."""
        record = self.record()
        assert changes.keys() <= record.keys(), changes.keys() - record.keys()
        version = {"schema_version": SCHEMA_VERSION}
        self.write(record | changes | version | {"status": status})

    def epochs(self) -> list[dict[str, Any]]:
        """The rows of its epochs."""
        return read_rows(self.path / EPOCHS)

    def searches(self) -> list[dict[str, Any]]:
        """The rows of its searches."""
        return read_rows(self.path / SEARCHES)

    def missing_rows(self) -> str:
        """Missing or damaged parts of an ended run's trace, in words; empty if it is complete.

        Raises:
            ValueError: a record that does not read.
        """
        record = self.record()
        if record["status"] == "stopped":
            counts = {"epochs": (record["stopped"] or {}).get("rung", 0)}
        else:
            # Earlier summaries did not tell how many epochs there are.
            summary = record["summary"] or {}
            counts = {name: summary[name] for name in ("epochs", "searches") if "epochs" in summary}
        there = {"epochs": self.epochs, "searches": self.searches}
        for name, count in counts.items():
            try:
                found = len(there[name]())
            except ValueError as error:
                return str(error)
            if found < count:
                return f"{found} of {count} {name}"
        return ""

    @contextmanager
    def locked(self, wait_s: float = 0.0) -> Iterator[None]:
        """Keep every other process from writing here.

        Raises:
            InUseError: another one still does, after `wait_s`.
            OSError: the directory cannot be written.
        """
        with lock(self.path / ".lock", wait_s):
            yield

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Append the engine's log to `trial.log`: a line per epoch, and warnings."""
        handler = LogFile(self.path / LOG)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("adacomcat")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
            handler.close()

    def refuse_used(self) -> None:
        """Refuse a directory, for `--output`, in which there is anything, or that cannot be made.

        Raises:
            ValueError: it is named, with the command that goes on with an unfinished run.
        """
        used = self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir()))
        unfinished = self.exists and self.status != "finished"
        go_on = f"; to go on with this one: {self.resume_command()}" if unfinished else ""
        require(not used, "--output", str(self.path), f"a new directory{go_on}")
        check_writable(self.path, "--output")

    def require_finished(self) -> None:
        """Refuse a run that has not left its model yet; a directory that is no run passes.

        Raises:
            ValueError: with the command that goes on with it.
        """
        if self.exists and self.status != "finished":
            raise ValueError(
                f"{self.path}: {self.status}, not finished; to go on: {self.resume_command()}"
            )

    def resume_command(self) -> str:
        """Command that resumes the run."""
        command = self.record().get("command")
        if command is None:
            results = shlex.quote(str(self.path.parents[1]))
            return f"adacomcat study --resume {results}"
        return f"adacomcat {command['name']} --resume {shlex.quote(str(self.path))}"


def failure_text(error: BaseException) -> str:
    """The error in one line, then the traceback."""
    head = f"{type(error).__name__}: {error}".partition("\n")[0]
    return f"{head}\n\n{''.join(traceback.format_exception(error))}"


def new_record(
    config: Mapping[str, Any],
    *,
    trial_id: str,
    experiment: str,
    workload: str,
    arm: str,
    label: str,
    leakage: Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    """The record of a run that has not begun.

    Args:
        config: of the run, a `TrialConfig` as JSON.
        trial_id: its name.
        experiment: that it belongs to.
        workload: data, model and recipe, by a name.
        arm: the setting under study, by a name.
        label: what tables and figures call the arm.
        leakage: see `DataConfig.leakage`.
        more: further entries.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "trial_id": trial_id,
        "experiment": experiment,
        "workload": workload,
        "arm": arm,
        "label": label,
        "seed": config["seed"],
        "status": "pending",
        "config": dict(config),
        "provenance": None,
        "leakage": list(leakage),
        "started": None,
        "finished": None,
        "error": None,
        "summary": None,
        "stopped": None,
        **more,
    }
