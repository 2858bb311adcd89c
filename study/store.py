"""Results directories: `study.json` and one run directory per trial.

    RESULTS/study.json          what was asked, of which arms and seeds, by which command
    RESULTS/study.yaml          the same as a file to run (`study.spec.configfile`)
    RESULTS/trials/<trial id>/  record, trace, checkpoint and model, see `adacomcat.io.run`

This directory, not Ray's, is the record of a study.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from adacomcat.checks import require
from adacomcat.files import atomic_write_json
from adacomcat.io.run import (
    FIELDS,
    RECORD,
    SCHEMA_VERSION,
    InUseError,
    Run,
    Status,
    UnreadableError,
    lock,
    new_record,
    now,
    read_record,
    read_trial,
)
from study.record import study_record, union
from study.refusals import changes, check_results, refusal
from study.spec.configfile import read_config, write_config
from study.spec.schema import Experiment, TrialSpec

TRIAL_ENTRIES = tuple(FIELDS)
"""Required keys of `trial.json`; only a run needs `experiment` and `needs`."""
VERSIONS = f"schemas up to {SCHEMA_VERSION}"
"""Readable versions of records, in words."""
DRIVER_LOCK = "driver.lock"
DRIVER_WAIT_S = 1.0
"""Wait for a lock that a status page holds for a moment."""


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
        """The decisions of an exploration's pruner."""
        return self.root / "rungs.jsonl"

    def folder(self, trial_id: str) -> Path:
        """The folder of a trial."""
        return self.root / "trials" / trial_id

    def run(self, trial_id: str) -> Run:
        """The run directory of a trial."""
        return Run(self.folder(trial_id))

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
        run = self.run(trial_id)
        return run.record() if run.exists else None

    def spec(self, trial_id: str) -> TrialSpec:
        """Description of a trial of this study, from its record."""
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
        return sorted((self.root / "trials").glob(f"*/{RECORD}"))

    def status(self, trial_id: str) -> Status:
        """Status of a trial."""
        return self.run(trial_id).status

    def epochs(self, trial_id: str) -> list[dict[str, Any]]:
        """The rows of a trial's epochs."""
        return self.run(trial_id).epochs()

    def searches(self, trial_id: str) -> list[dict[str, Any]]:
        """The rows of a trial's searches."""
        return self.run(trial_id).searches()

    def check(self, experiment: Experiment, *, extend: bool = False) -> dict[str, Any] | None:
        """Check that a study can begin or continue here.

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
        before = self.study() if self.study_file.exists() else None
        check_results(self.root, before, experiment, extend=extend)
        return before

    def begin(
        self,
        experiment: Experiment,
        *,
        extend: bool = False,
        command: str,
        provenance: Mapping[str, Any],
    ) -> None:
        """Write `study.json` and `study.yaml`, or continue the existing study.

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
        run = self.run(spec.trial_id)
        if not run.exists:
            names = ("trial_id", "experiment", "workload", "arm", "label", "needs", "leakage")
            run.write(new_record(spec.config, **{name: getattr(spec, name) for name in names}))

    def update(self, trial_id: str, status: Status, **changes: Any) -> None:
        """Set the status of a trial and any other entries of its record."""
        self.run(trial_id).update(status, **changes)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory, made if missing, against every other driver.

        One that was made for the lock, and into which nothing was written, is removed again.

        Raises:
            ValueError: another driver has it, or it cannot be locked: no directory, not writable,
                or a file system without locks.
        """
        is_file = self.root.exists() and not self.root.is_dir()
        require(not is_file, "--results", str(self.root), "a directory; it is a file")
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        path = self.root / DRIVER_LOCK
        with ExitStack() as held:
            try:
                held.enter_context(lock(path, DRIVER_WAIT_S))
            except InUseError:
                allowed = "a directory with no driver at work (--status tells how far this one is)"
                require(False, "--results, --resume", str(self.root), allowed)
            except OSError as error:
                cannot = f"--results: cannot write to or lock {self.root} ({error.strerror})"
                raise ValueError(cannot) from None
            try:
                yield
            finally:
                held.close()
                if made and [entry.name for entry in self.root.iterdir()] == [path.name]:
                    path.unlink()
                    for folder in made:
                        folder.rmdir()

    def has_driver(self) -> bool:
        """Whether a driver is at work, as far as this user may find out."""
        path = self.root / DRIVER_LOCK
        try:
            with lock(path) if path.exists() else nullcontext():
                return False
        except InUseError:
            return True
        except OSError:  # Another user's, not to be locked.
            return False


class SingleRun(Results):
    """A run directory of the command line, read as a study of one trial."""

    def folder(self, trial_id: str) -> Path:
        return self.root

    def _trial_files(self) -> list[Path]:
        return [self.root / RECORD]

    def study(self) -> dict[str, Any]:
        """Content of `study.json` for an experiment."""
        record = Run(self.root).record()
        config = {name: value for name, value in record["config"].items() if name != "seed"}
        arm = {"name": record["arm"], "label": record["label"], "needs": {}, "config": config}
        kept = ("schema_version", "experiment", "workload", "started", "provenance")
        return {
            **{name: record[name] for name in kept},
            "question": f"One run of adacomcat {record['arm']}",
            "arms": [arm | {"schedule": config["schedule"]}],
            "seeds": [record["seed"]],
            "exploration": None,
            "command": shlex.join(["adacomcat", *record["command"]["argv"]]),
        }


def open_results(path: Path) -> Results:
    """The results in a directory: of a study, or of one run of the command line."""
    root = path.resolve()
    results, run = Results(root), Run(root)
    alone = run.exists and not results.study_file.exists() and "command" in run.record()
    return SingleRun(root) if alone else results


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
