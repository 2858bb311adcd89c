"""Trials of one arm in a worker, under Ray Tune or Ray Train, and their records."""

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adacomcat.checks import NonFiniteLoss
from adacomcat.io.run import FINAL, lock, now
from adacomcat.io.trace import TraceWriter
from adacomcat.parallel import from_first_worker
from adacomcat.training.rows import Row
from adacomcat.versions import collect
from study.execution.body import Body, Outcome, train_trial
from study.execution.causes import is_memory_short, is_of_ray
from study.execution.disk import is_disk_full
from study.execution.placement import Placement
from study.explore.pruner import Decision
from study.spec.objectives import mean_values
from study.spec.schema import TrialSpec
from study.store import Results

Report = Callable[[dict[str, Any]], None]
"""Takes flat metrics on their way to Ray."""

PREDECESSOR_WAIT_S = 60.0
"""A worker outlives its killed driver by a second or two, and may still be writing."""

TOLD = ("phase", "epoch", "step_epoch", "val_acc", "searches", "params")
"""Columns of an epoch that are reported to Ray, which keeps averages of every number."""


@dataclass(frozen=True)
class Pruning:
    """The pruner of an exploration, its objectives, and the epochs at which it decides."""

    decide: Callable[[str, int, Sequence[float]], Decision]
    objectives: tuple[str, ...]
    rungs: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """Shared data of all trials of a study, sent to every worker."""

    root: str
    """The results directory."""
    cache: str
    placement: Placement
    git: dict[str, Any]
    body: Body = train_trial
    pruning: Pruning | None = None
    named: bool = False
    """Whether each trial has an actor of its own, which Ray's dashboard shows by the trial's id."""
    report_every_s: float = 0.5
    """Minimum interval between reports to Ray; the trace has all epochs."""


class _TraceReporter:
    """Writes the rows of a trial on its first worker, and passes epochs on to Ray."""

    def __init__(
        self, spec: TrialSpec, writer: TraceWriter | None, report: Report, job: Job, before: int
    ) -> None:
        """
        Args:
            spec: of the trial.
            writer: of its trace; None on the other workers.
            report: takes the epochs that Ray hears of.
            job: shared by all trials.
            before: epochs that the arm's other trials have done.
        """
        self._writer, self._report, self._before = writer, report, before
        self._who = {"trial": spec.trial_id, "seed": spec.seed}
        # Ray Train waits at a report until every worker has called it: there, none is left out.
        nested = job.placement.executor == "train"
        self._every_s = 0.0 if nested else job.report_every_s
        self._told = 0.0

    def begin(self, epochs: Sequence[Row], searches: Sequence[Row]) -> None:
        if self._writer is not None:
            self._writer.begin(epochs, searches)

    def epoch(self, row: Row) -> None:
        if self._writer is not None:
            self._writer.epoch(row)
        if time.monotonic() - self._told >= self._every_s:
            self._told = time.monotonic()
            told = {name: row[name] for name in TOLD}
            # The step in Ray's loggers: it continues after a resume, and never decreases.
            step = {"training_iteration": self._before + row["step_epoch"] + 1}
            self._report(self._who | told | step)

    def search(self, row: Row) -> None:
        if self._writer is not None:
            self._writer.search(row)


class ArmRun:
    """The trials of one arm on one worker: in turn, in step from rung to rung."""

    def __init__(
        self, specs: Sequence[TrialSpec], job: Job, device: str, report: Report, *, first: bool
    ) -> None:
        """
        Args:
            specs: the arm's trials, resolved, one a seed.
            job: what all trials share.
            device: of this worker.
            report: takes a row an epoch and, at the end of a trial, its `status`; called on every
                worker, since Ray Train waits for all of them.
            first: whether this worker keeps the records.
        """
        self.specs, self.job, self.device = specs, job, device
        self.report, self.first = report, first
        self.results = Results(Path(job.root))
        self.provenance = collect(job.git) | {"execution": asdict(job.placement)}

    def run(self) -> None:
        """Run the remaining trials.

        Raises:
            Exception: of a trial's body; nothing is recorded of it here.
        """
        # Ray gives a worker one thread, whatever its CPUs; and the setting is of this thread alone.
        torch.set_num_threads(self.job.placement.threads)
        if from_first_worker(all(self._is_there(spec, None) for spec in self.specs)):
            return
        pruning = self.job.pruning
        for rung in pruning.rungs if pruning else ():
            for spec in self.specs:
                self._run_trial(spec, rung)
            assert pruning is not None
            decision = from_first_worker(self._decide(pruning, rung) if self.first else None)
            assert decision is not None
            if decision.stop:
                self._stop(decision)
                return
        for spec in self.specs:
            self._run_trial(spec, None)

    def _run_trial(self, spec: TrialSpec, until: int | None) -> None:
        """One trial up to a rung, or to its end."""
        # The first worker decides: another one may see the files late, over a network.
        if from_first_worker(self._is_there(spec, until)):
            return
        outcome = (self._record if self.first else self._run_body)(spec, until)
        if outcome is not None:
            self.report({"trial": spec.trial_id, "status": "finished"})

    def _record(self, spec: TrialSpec, until: int | None) -> Outcome | None:
        """Run the body and record its outcome in the trial's folder."""
        run = self.results.run(spec.trial_id)
        with run.locked(PREDECESSOR_WAIT_S):
            self._begin(spec)
            with closing(TraceWriter(run.path)) as writer, run.logged():
                outcome = self._run_body(spec, until, writer)
            if outcome is not None:
                self._finish(spec, outcome)
        return outcome

    def _is_there(self, spec: TrialSpec, until: int | None) -> bool:
        if self.results.status(spec.trial_id) in FINAL:
            return True
        if until is None:
            return False
        try:
            return len(self.results.epochs(spec.trial_id)) >= until
        except ValueError:  # A damaged row: the trial goes on, and writes its trace anew.
            return False

    def _run_body(
        self, spec: TrialSpec, until: int | None, writer: TraceWriter | None = None
    ) -> Outcome | None:
        others = (other.trial_id for other in self.specs if other is not spec)
        before = sum(len(self.results.epochs(trial_id)) for trial_id in others)
        return self.job.body(
            spec.trial_config(),
            directory=self.results.folder(spec.trial_id),
            reporter=_TraceReporter(spec, writer, self.report, self.job, before),
            cache=Path(self.job.cache),
            device=self.device,
            until=until,
        )

    def _begin(self, spec: TrialSpec) -> None:
        record = self.results.trial(spec.trial_id)
        assert record is not None, spec.trial_id
        if record["status"] != "running":
            self.results.update(
                spec.trial_id,
                "running",
                config=spec.config,
                provenance=self.provenance,
                started=record["started"] or now(),
                finished=None,
                error=None,
                summary=None,
            )

    def _finish(self, spec: TrialSpec, outcome: Outcome) -> None:
        # The settings tell one part of the leakage, the contents of the images the other.
        leakage = list(dict.fromkeys((*spec.leakage, *outcome.leakage)))
        self.results.update(
            spec.trial_id,
            "finished",
            finished=now(),
            summary=outcome.summary,
            leakage=leakage,
            provenance=self.provenance | {"split_hashes": dict(outcome.split_hashes)},
        )

    def _decide(self, pruning: Pruning, rung: int) -> Decision:
        """The pruner's decision on the means over the seeds, each as it stood at the rung."""
        traces = [self.results.epochs(spec.trial_id)[:rung] for spec in self.specs]
        values = mean_values(traces, pruning.objectives)
        return pruning.decide(self.specs[0].arm, rung, values)

    def _stop(self, decision: Decision) -> None:
        for spec in self.specs:
            if self.first:
                stopped = asdict(decision)
                self.results.update(spec.trial_id, "stopped", finished=now(), stopped=stopped)
            self.report({"trial": spec.trial_id, "status": "stopped"})


def run_arm(trial_ids: Sequence[str], job: Job, report: Report) -> None:
    """Run the trials of an arm; a failure is recorded, not raised.

    The study goes on when a trial fails, and its worker takes the next arm.

    Args:
        trial_ids: of the arm's trials, one a seed; their records say what they are.
        job: what all trials share.
        report: takes a row an epoch and, last, the `status` of each trial; before, `kept` for each
            that ended earlier; `disk_full` where nothing can be recorded any more, `memory_short`
            where Ray killed its workers for want of memory.
    """
    from study.execution.nested import run_nested

    results = Results(Path(job.root))
    # By their ids: what Tune is given it keeps, several times over.
    specs = [results.spec(trial_id) for trial_id in trial_ids]
    for spec in specs:
        if results.status(spec.trial_id) in FINAL:
            # Tune wants a word of every trial, also of one that has nothing left to do.
            report({"trial": spec.trial_id, "kept": True})
    try:
        # The same arm, suggested twice, waits here and finds its trials finished.
        with lock(results.folder(specs[0].trial_id) / ".arm.lock", math.inf):
            if job.placement.executor == "train":
                run_nested(specs, job)
            else:
                ArmRun(specs, job, job.placement.device, report, first=True).run()
    except Exception as error:
        if is_disk_full(error):
            report({"trial": specs[0].trial_id, "disk_full": str(error)})
        elif is_memory_short(error):
            report({"trial": specs[0].trial_id, "memory_short": str(error)})
        else:
            record_failure(specs, results, error, report)


def record_failure(
    specs: Sequence[TrialSpec], results: Results, error: BaseException, report: Report
) -> None:
    """Mark the rest of an arm as failed: means over different numbers of seeds do not compare."""
    for spec in specs:
        if results.status(spec.trial_id) not in FINAL:
            results.update(spec.trial_id, "failed", finished=now(), error=failure_text(error))
            report({"trial": spec.trial_id, "status": "failed"})


def failure_text(error: BaseException) -> str:
    """The error in one line, then the traceback; for a Train run, those of its workers."""
    workers: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    if not workers:
        return f"{_headline(error)}\n\n{''.join(traceback.format_exception(error))}"
    # The others only saw that one was lost.
    guilty = [rank for rank in sorted(workers) if is_final(workers[rank])] or sorted(workers)
    heads = (f"{_headline(workers[rank])} (worker {rank})" for rank in guilty)
    return "\n".join([*heads, "", str(error)])


def is_final(error: BaseException) -> bool:
    """Whether an error is the trial's own: a lost peer shows as RuntimeError or OSError."""
    if is_of_ray(error):
        return False
    return isinstance(error, NonFiniteLoss) or not isinstance(error, RuntimeError | OSError)


def _headline(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def ray_folder(root: str | Path) -> Path:
    """Folder of Ray's own files of a study, which are not part of the record."""
    return Path(root) / "ray"
