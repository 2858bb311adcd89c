"""A results directory: `study.json` and one folder a trial.

    RESULTS/study.json                  what was asked, of which arms and seeds, by which command
    RESULTS/study.yaml                  the same as a file to run (`study.spec.configfile`)
    RESULTS/trials/<trial id>/trial.json       status, configuration, provenance, summary
                              epochs.jsonl     one row an epoch
                              searches.jsonl   one row a search
                              checkpoint/      what a resume needs

Rows are only appended, each by one write of a whole line; JSON files are replaced atomically. So a
kill at any moment leaves a directory that reads, and this directory, not Ray's, is the record.
"""

import errno
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adacomcat.checks import require
from adacomcat.files import atomic_write_json
from study.record import (
    TRIAL_FIELDS,
    UnreadableError,
    changes,
    read_record,
    read_trial,
    refusal,
    refuse_growth,
    study_record,
    union,
)
from study.spec.configfile import read_config, write_config
from study.spec.expand import expand
from study.spec.schema import SCHEMA_VERSION, Experiment, Status, TrialSpec

EPOCHS, SEARCHES = "epochs.jsonl", "searches.jsonl"
TRIAL_ENTRIES = tuple(TRIAL_FIELDS)
"""What every `trial.json` has, as it is read here; `experiment` and `needs` are for a run alone."""
VERSIONS = f"schemas up to {SCHEMA_VERSION}"
"""What is read here, in words."""
EARLY = ("study.yaml", "driver.lock", "trials")
"""What may be there before a study begins: files of a killed driver, and trials copied from another
study."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where it does not exist.

    A last line without its end is the trace of a kill in the middle of a write: it is left out.

    Raises:
        ValueError: a whole line that is no JSON; the file and the line are named.
    """
    rows = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        require(isinstance(rows[-1], dict), f"{path}, line {number}", rows[-1], "a JSON object")
    return rows


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]


class Rows:
    """A JSON-lines file that one process appends to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            # Cut off what a kill left of a line, or the next row would be glued to it.
            os.truncate(path, sum(len(line) + 1 for line in _whole_lines(path)))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row, the whole of it or nothing.

        Raises:
            ValueError: a nan or an infinity, which JSON has no word for.
            OSError: a full disk; the file is named.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        if written != len(line):
            # Space ran out within the line, and may be there again for the next one.
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def cut(self, key: str, start: int) -> None:
        """Drop the rows whose `key` is `start` or more: a resumed trial writes them again."""
        size = 0
        for line in _whole_lines(self.path):
            if json.loads(line)[key] >= start:
                # Rows are in the order of their key, so what is kept is the file's beginning.
                os.truncate(self.path, size)
                return
            size += len(line) + 1

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


class TraceWriter:
    """The reporter of one trial: appends its epochs and searches to the trial's folder.

    What an earlier attempt wrote beyond the point of resumption is dropped at the first row, so
    that the files hold each epoch and each search once.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._epochs, self._searches = Rows(folder / EPOCHS), Rows(folder / SEARCHES)
        self._fresh = {"epochs": True, "searches": True}

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Append the row of an epoch, and flush both files to the disk."""
        if self._first("epochs"):
            self._epochs.cut("step_epoch", row["step_epoch"])
        if self._first("searches"):
            self._searches.cut("index", row["searches"])
        self._epochs.append(row)
        self._searches.sync()
        self._epochs.sync()

    def search(self, row: Mapping[str, Any]) -> None:
        """Append the row of a search."""
        if self._first("searches"):
            self._searches.cut("index", row["index"])
        self._searches.append(row)

    def _first(self, name: str) -> bool:
        fresh, self._fresh[name] = self._fresh[name], False
        return fresh

    def close(self) -> None:
        self._epochs.close()
        self._searches.close()


class Results:
    """A results directory, by its absolute path."""

    def __init__(self, root: Path) -> None:
        assert root.is_absolute(), root  # Ray's workers live in another working directory.
        self.root = root

    @property
    def study_file(self) -> Path:
        return self.root / "study.json"

    @property
    def config_file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def rungs_file(self) -> Path:
        """The verdicts of an exploration's judge."""
        return self.root / "rungs.jsonl"

    def folder(self, trial_id: str) -> Path:
        """The folder of a trial."""
        return self.root / "trials" / trial_id

    def study(self) -> dict[str, Any]:
        """The content of `study.json`.

        Raises:
            ValueError: no such file, not JSON, or a newer schema.
        """
        require(self.study_file.is_file(), "results", str(self.root), "a directory with study.json")
        return read_record(self.study_file)

    def trial(self, trial_id: str) -> dict[str, Any] | None:
        """The content of a trial's `trial.json`; None before it is written.

        Raises:
            ValueError: a record that does not read; see `read_trial`.
        """
        path = self.folder(trial_id) / "trial.json"
        return read_trial(path) if path.exists() else None

    def spec(self, trial_id: str) -> TrialSpec:
        """What a trial of this study is to do, as its record says."""
        record = self.trial(trial_id)
        assert record is not None, trial_id
        names = [name for name in TrialSpec.model_fields if name in record]
        return TrialSpec(**{name: record[name] for name in names})

    def trials(self) -> list[dict[str, Any]]:
        """All trials, by id.

        Raises:
            ValueError: a record that does not read; see `read_trial`.
        """
        return [read_trial(path) for path in self._trial_files()]

    def readable(self) -> tuple[list[dict[str, Any]], dict[str, UnreadableError]]:
        """The trials whose records read, by id, and of each other one's folder the cause."""
        read, unread = [], {}
        for path in self._trial_files():
            try:
                read.append(read_trial(path))
            except UnreadableError as error:
                unread[path.parent.name] = error
        return read, unread

    def _trial_files(self) -> list[Path]:
        return sorted((self.root / "trials").glob("*/trial.json"))

    def status(self, trial_id: str) -> Status:
        """Where a trial stands."""
        record = self.trial(trial_id)
        status: Status = record["status"] if record else "pending"
        return status

    def epochs(self, trial_id: str) -> list[dict[str, Any]]:
        """The rows of a trial's epochs."""
        return read_rows(self.folder(trial_id) / EPOCHS)

    def searches(self, trial_id: str) -> list[dict[str, Any]]:
        """The rows of a trial's searches."""
        return read_rows(self.folder(trial_id) / SEARCHES)

    def check(self, experiment: Experiment, *, extend: bool = False) -> dict[str, Any] | None:
        """See whether a study can be written here, or goes on here.

        A study goes on when its experiment, workload, arms and exploration are the same; fewer
        seeds or samples than before leave what is there.

        Args:
            experiment: what is asked.
            extend: whether seeds, samples or arms may be added.

        Returns:
            The content of the `study.json` that is there; None where there is none.

        Raises:
            ValueError: the directory holds another study, files that are no study, or a newer
                schema; or more is asked than `extend` allows.
        """
        if self.study_file.exists():
            before, now = self.study(), study_record(experiment)
            way_out = "give another --results, or delete this one"
            for key in ("experiment", "workload"):
                allowed = f"{before[key]!r}, which {self.root} holds; {way_out}"
                require(now[key] == before[key], f"--{key}", now[key], allowed)
            changed = changes(before, now)
            if changed:
                raise ValueError(refusal(f"--results: {self.root} holds", way_out, changed))
            refuse_growth(before, now, self.root, extend)
            return before
        is_file = self.root.exists() and not self.root.is_dir()
        require(not is_file, "--results", str(self.root), "a directory; this is a file")
        there = sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []
        strangers = [name for name in there if name not in EARLY and not name.startswith(".")]
        allowed = f"a study's folder, or an empty one; it has {', '.join(strangers[:3])}"
        require(not strangers, "--results", str(self.root), allowed)
        self._check_copied(experiment)
        return None

    def _check_copied(self, experiment: Experiment) -> None:
        """Refuse trials, copied from another study, that a grid does not have."""
        there = sorted(path.name for path in (self.root / "trials").glob("*"))
        if there and experiment.exploration is None:
            own = {spec.trial_id for spec in expand(experiment)}
            others = [name for name in there if name not in own]
            allowed = f"trials of {experiment.name} with these settings; delete these"
            require(not others, "--results", ", ".join(others[:3]), allowed)

    def begin(
        self,
        experiment: Experiment,
        *,
        extend: bool = False,
        command: str,
        provenance: Mapping[str, Any],
    ) -> None:
        """Write `study.json` and `study.yaml`, or go on with the study that is there.

        Args:
            experiment: what is asked.
            extend: as `check` takes it.
            command: as the user gave it.
            provenance: of the driver.

        Raises:
            ValueError: as `check`, or the directory cannot be written.
        """
        before = self.check(experiment, extend=extend)
        whole = union(before, experiment) if before else experiment
        study = study_record(whole) | {
            "started": before["started"] if before else now(),
            "command": command,
            "provenance": dict(provenance),
        }
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # In this order: `load` takes a file that asks for less than the record, after a kill
            # between the two.
            atomic_write_json(self.study_file, study)
            write_config(whole, self.config_file)
        except OSError as error:
            raise ValueError(f"--results: cannot write {self.root} ({error.strerror})") from None

    def add(self, spec: TrialSpec) -> None:
        """Make the record of a trial, unless it has one."""
        if self.trial(spec.trial_id) is None:
            self.write(
                spec.trial_id,
                {
                    "schema_version": SCHEMA_VERSION,
                    "trial_id": spec.trial_id,
                    "experiment": spec.experiment,
                    "workload": spec.workload,
                    "arm": spec.arm,
                    "label": spec.label,
                    "seed": spec.seed,
                    "status": "pending",
                    "config": spec.config,
                    "needs": spec.needs,
                    "provenance": None,
                    "leakage": list(spec.leakage),
                    "started": None,
                    "finished": None,
                    "error": None,
                    "summary": None,
                    "stopped": None,
                },
            )

    def update(self, trial_id: str, status: Status, **changes: Any) -> None:
        """Set the status of a trial and any other entries of its record."""
        record = self.trial(trial_id)
        assert record is not None, trial_id
        assert changes.keys() <= record.keys(), changes.keys() - record.keys()
        version = {"schema_version": SCHEMA_VERSION}
        self.write(trial_id, record | changes | version | {"status": status})

    def write(self, trial_id: str, record: Mapping[str, Any]) -> None:
        """Replace the record of a trial."""
        atomic_write_json(self.folder(trial_id) / "trial.json", record)


def load(results: Results) -> Experiment:
    """The experiment of a results directory, from its `study.yaml`.

    Raises:
        ValueError: no study, one of a version that wrote no such file, or a file that was edited.
    """
    study = results.study()
    path = results.config_file
    allowed = f"a directory with study.yaml; this study goes on by its command: {study['command']}"
    require(path.is_file(), "results", str(results.root), allowed)
    experiment = read_config(path)
    changed = changes(study, study_record(experiment))
    if changed:
        way_out = "to run the file as it is: --config FILE with another --results"
        raise ValueError(refusal(f"{path} was edited: study.json has", way_out, changed))
    results.check(experiment)
    return experiment
