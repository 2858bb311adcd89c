"""`search` and `finetune`: one phase of a trial, in a directory of its own."""

import argparse
import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

import adacomcat
from adacomcat.checks import require
from adacomcat.cli.console import Display
from adacomcat.cli.process import is_first
from adacomcat.cli.request import finetune_config, resumed_config, search_config
from adacomcat.cli.sources import origin_of
from adacomcat.cli.workers import Workers
from adacomcat.config import TrialConfig, leakage_note
from adacomcat.data import Splits, build_splits
from adacomcat.files import default_cache, sha256_file
from adacomcat.io.directory import WEIGHTS, check_saveable, read_plan, save_result
from adacomcat.io.run import Run, failure_text, new_record, now
from adacomcat.io.trace import TraceWriter
from adacomcat.training import Reporter, Trial, dense_model
from adacomcat.training.clock import Clock
from adacomcat.training.dense import build_dense
from adacomcat.training.rows import Row
from adacomcat.versions import collect


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: its directory, its command, its configuration."""

    run: Run
    command: dict[str, Any]
    """`name` and `argv`; for a finetune also `from`, the directory of the initial model, and
    `from_sha256`, the hash of its weights."""
    config: TrialConfig
    """Configuration as requested, including the phase that this command does not run."""
    workload: str | None = None
    """Name of the recipe; None: the name of the data set is used."""
    stored: bool = False
    """Whether this is a resume: the directory exists."""

    @property
    def trial_config(self) -> TrialConfig:
        """The configuration with this command's phase alone.

        The other phase has its recipe, for no epoch: what it says of precision and batches counts
        in the evaluation at the end.
        """
        this, other = "search_phase", "finetune"
        if self.command["name"] == "finetune":
            this, other = other, this
        empty = getattr(self.config, this).replace(epochs=0)
        return self.config.replace(**{other: empty})


class _Reporter:
    """Shows a trial's epochs, and writes its rows on the first worker."""

    def __init__(self, run: Run, display: Display) -> None:
        self._trace = TraceWriter(run.path) if is_first() else None
        self._display = display

    def begin(self, epochs: Sequence[Row], searches: Sequence[Row]) -> None:
        if self._trace is not None:
            self._trace.begin(epochs, searches)

    def epoch(self, row: Row) -> None:
        self._display.next_epoch()
        if self._trace is not None:
            self._trace.epoch(row)

    def search(self, row: Row) -> None:
        if self._trace is not None:
            self._trace.search(row)


class ShownClock(Clock):
    """A clock that also shows the batches that pass through it."""

    def __init__(self, device: torch.device, display: Display) -> None:
        super().__init__(device)
        self._display, self._running = display, ""

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self._running = name
        with super().span(name):
            yield

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        total = len(batches) if isinstance(batches, Sized) else None
        return self._display.counted(super().waiting(batches), f"{self._running} steps", total)


def train(arguments: argparse.Namespace, display: Display) -> None:
    """Run or resume a `search` or a `finetune`.

    Raises:
        ValueError: a setting, a file or a folder that cannot be used.
        NonFiniteLoss: names phase, epoch and step.
        KeyboardInterrupt: with the command that goes on, where there is anything to go on with.
    """
    job = _resumed(arguments) if arguments.resume is not None else _asked(arguments)
    if job.stored and job.run.status == "finished" and not job.run.missing_rows():
        display.say(f"{job.run.path}: finished already")
        record = job.run.record()
        _report(job, record["summary"], record["leakage"], display)
        return
    warn_of_leakage(job.config.data.leakage, display)
    workers = Workers(arguments.device)
    with display.shown(), _explained(job, display):
        splits = build_splits(job.config.data)
        if set(splits.leakage) > set(job.config.data.leakage):
            warn_of_leakage(splits.leakage, display)
        dense = _dense(job, splits, workers, display)
        with workers.together():
            trial = _trial(job, dense, splits, workers.device, _Reporter(job.run, display))
            trial.clock = ShownClock(trial.device, display)
            if not job.stored:
                _adopt(job, trial)
            with _recorded(job) if is_first() else nullcontext():
                summary = _run(job, trial, display)
    _report(job, summary, splits.leakage, display)


def warn_of_leakage(uses: Sequence[str], display: Display) -> None:
    """Print a warning where the images that are reported on are used for more."""
    note = leakage_note(uses)
    if note:
        display.say(note, "bold red")


def _asked(arguments: argparse.Namespace) -> Job:
    """The run that the flags describe."""
    run = Run(arguments.output)
    run.refuse_used()
    command: dict[str, Any] = {"name": arguments.command, "argv": arguments.argv}
    if arguments.command == "search":
        return Job(run, command, search_config(arguments), arguments.workload)
    source = arguments.source.absolute()
    config = finetune_config(arguments, origin_of(source))
    command |= {"from": str(source), "from_sha256": sha256_file(source / WEIGHTS)}
    return Job(run, command, config, arguments.workload)


def _resumed(arguments: argparse.Namespace) -> Job:
    """The run whose directory is named."""
    run = Run(arguments.resume)
    record = run.record()
    command = record.get("command")
    if command is None or command["name"] != arguments.command:
        allowed = f"that of a {arguments.command}; this one goes on with {run.resume_command()}"
        require(False, "--resume", str(run.path), allowed)
    assert command is not None
    config = resumed_config(arguments, run.config())
    return Job(run, command, config, record["workload"], stored=True)


def _dense(job: Job, splits: Splits, workers: Workers, display: Display) -> nn.Module:
    """The dense model; trained by one worker of each machine, where it has to be."""
    device = workers.device
    if job.config.dense.recipe.epochs > 0:
        # What does not fit is refused before hours of training, not after.
        untrained = build_dense(job.config, splits)
        check_saveable(untrained)
        _trial(job, untrained, splits, device, _Reporter(job.run, display))
    with workers.first_of_machine_first():
        return dense_model(
            job.config, splits, default_cache(), device=device, progress=display.dense_epoch
        )


def _trial(job: Job, dense: nn.Module, splits: Splits, device: str, reporter: Reporter) -> Trial:
    return Trial(
        job.trial_config,
        dense=dense,
        splits=splits,
        directory=job.run.path,
        reporter=reporter,
        device=device,
    )


@contextmanager
def _recorded(job: Job) -> Iterator[None]:
    """Hold the directory, made if missing, and record how the block ends if it does not finish."""
    run = job.run
    with run.locked():
        if job.stored:
            begun = {
                "config": job.config.to_json(),
                "finished": None,
                "error": None,
                "summary": None,
            }
            run.update("running", **begun)
        else:
            run.write(_new_record(job))
        try:
            with run.logged():
                yield
        except KeyboardInterrupt:
            run.update("interrupted", finished=now())
            raise
        except Exception as error:
            with suppress(OSError):  # On a full disk the first error says more.
                run.update("failed", finished=now(), error=failure_text(error))
            raise


def _new_record(job: Job) -> dict[str, Any]:
    name, schedule = job.command["name"], job.config.schedule["kind"]
    return new_record(
        job.config.to_json(),
        trial_id=job.run.path.name,
        experiment=name,
        workload=job.workload or job.config.data.name,
        arm=name,
        label=f"{name} ({schedule})" if name == "search" else name,
        leakage=job.config.data.leakage,
        status="running",
        started=now(),
        provenance=collect(),
        command=job.command,
    )


def _run(job: Job, trial: Trial, display: Display) -> dict[str, Any]:
    """Train to the end, and leave the model."""
    if job.stored and not trial.resume():
        _adopt(job, trial)
    epochs = trial.config.search_phase.epochs + trial.config.finetune.epochs
    display.start_epochs(epochs, len(trial.rows))
    summary = trial.run()
    assert summary is not None
    save_result(trial, job.run.path)
    if is_first():
        record, splits = job.run.record(), trial.splits
        leaving = {"provenance": record["provenance"] | {"split_hashes": dict(splits.hashes)}}
        leaving |= {"leakage": list(splits.leakage)}
        job.run.update("finished", finished=now(), summary=summary, **leaving)
    return summary


def _adopt(job: Job, trial: Trial) -> None:
    """Start from the model of `--from`, if any."""
    if "from" not in job.command:
        return
    source, digest = Path(job.command["from"]), job.command["from_sha256"]
    found = sha256_file(source / WEIGHTS)
    allowed = f"{digest}, the file that this run began with"
    require(found == digest, str(source / WEIGHTS), f"SHA-256 {found}", allowed)
    trial.adopt_(adacomcat.load(source), read_plan(source))


def _report(job: Job, summary: dict[str, Any], leakage: Sequence[str], display: Display) -> None:
    """Print the results and the next command."""
    display.say(
        f"test accuracy {summary['test_acc']:.2%} (dense {summary['dense_test_acc']:.2%}), "
        f"searches {summary['searches']}"
    )
    for name, unit in (("parameters", "params"), ("MACs", "macs")):
        cost, dense = summary[unit], summary[f"dense_{unit}"]
        display.say(f"{name} {cost:,} of {dense:,} ({cost / dense - 1:+.1%})")
    warn_of_leakage(leakage, display)
    where = shlex.quote(str(job.run.path))
    display.say(f"model in {where}")
    if job.command["name"] == "search":
        display.say(f"next: adacomcat finetune --from {where} --output NEW")


@contextmanager
def _explained(job: Job, display: Display) -> Iterator[None]:
    """Print the command that resumes after an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        again = "nothing is left; the same command starts again"
        if job.run.exists:
            again = f"to go on: {job.run.resume_command()}"
        display.say(f"interrupted; {again}", "bold")
        raise
