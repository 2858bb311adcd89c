"""The directory of one run: what it was asked, where it stands, what it left.

run.json            command, configuration, versions, what leaked; written first
checkpoint/         where `--resume` goes on, replaced every epoch
epochs.jsonl        a row an epoch
searches.jsonl      a row a search
summary.json        the outcome; written last, so that its presence says: finished
model.safetensors, plan.json, config.json       the model, for `adacomcat.load`
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adacomcat.checks import require
from adacomcat.config import TrialConfig, from_mapping
from adacomcat.files import atomic_write_bytes, atomic_write_json
from adacomcat.versions import versions

FORMAT, VERSION = "adacomcat-run", 1
PACKAGES = ("adacomcat", "torch", "torchvision", "timm", "numpy")
RUN, SUMMARY, EPOCHS, SEARCHES = "run.json", "summary.json", "epochs.jsonl", "searches.jsonl"
COMMANDS = ("search", "finetune")


class RunFolder:
    """A run's directory; one process writes to it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def create(
        self, command: str, config: TrialConfig, argv: Sequence[str], **more: Any
    ) -> dict[str, Any]:
        """Make the directory with its `run.json`, and return what that holds.

        Raises:
            ValueError: the path is a file, or a directory with anything in it.
        """
        self.refuse_used(command)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "command": command,
            "argv": list(argv),
            "leakage": list(config.data.leakage),
            "config": config.to_json(),
            **more,
            "versions": versions(PACKAGES),
            "started": _now(),
        }
        atomic_write_json(self.path / RUN, record)
        return record

    def refuse_used(self, command: str) -> None:
        """Raise where there is anything already.

        Raises:
            ValueError: as `create`.
        """
        used = self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir()))
        allowed = "a new directory"
        if used and self.exists and command in COMMANDS:
            allowed += f"; to go on with this one: {self.resume_command(command)}"
        require(not used, "--output", str(self.path), allowed)

    def read(self) -> dict[str, Any]:
        """What `run.json` holds.

        Raises:
            ValueError: no directory of a run, or one of a newer version.
        """
        path = self.path / RUN
        try:
            record = json.loads(path.read_text())
        except FileNotFoundError:
            raise ValueError(f"{self.path}: no run of search or finetune: no {RUN}") from None
        except ValueError as error:
            raise ValueError(f"{path}: truncated or altered: {error}") from None
        ours = isinstance(record, dict) and record.get("format") == FORMAT
        require(ours, str(path), "another format", f"the {RUN} of search or finetune")
        known = type(record.get("version")) is int and record["version"] <= VERSION
        require(known, f"{path}: version", record.get("version"), f"up to {VERSION}")
        return record

    def config(self) -> TrialConfig:
        """The configuration in `run.json`."""
        return from_mapping(TrialConfig, self.read()["config"])

    @property
    def exists(self) -> bool:
        return (self.path / RUN).is_file()

    @property
    def finished(self) -> bool:
        return (self.path / SUMMARY).is_file()

    def require_finished(self) -> None:
        """Raise where a run has not left its model yet.

        Raises:
            ValueError: with the command that goes on with it.
        """
        if self.exists and not self.finished:
            go_on = self.resume_command(self.read()["command"])
            raise ValueError(f"{self.path}: not finished; to go on with it: {go_on}")

    def resume_command(self, command: str) -> str:
        """What to type to go on."""
        return f"adacomcat {command} --resume {shlex.quote(str(self.path))}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from writing here.

        Raises:
            ValueError: another one does.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(f"{self.path}: another process is at work here") from None
        try:
            yield
        finally:
            lock.release()

    # The trace.

    def start_trace(self, rows: Iterable[Mapping[str, Any]], name: str) -> None:
        """Begin a file of rows with those that a checkpoint holds: what came later is repeated."""
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        atomic_write_bytes(self.path / name, text.encode())

    def append(self, row: Mapping[str, Any], name: str) -> None:
        """Add a row."""
        with (self.path / name).open("a") as file:
            file.write(f"{json.dumps(row)}\n")

    def summary(self) -> dict[str, Any]:
        """What a finished run left.

        Raises:
            ValueError: a damaged file.
        """
        path = self.path / SUMMARY
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: truncated or altered: {error}") from None
        return found

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        atomic_write_json(self.path / SUMMARY, dict(summary))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
