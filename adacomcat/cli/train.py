"""`search` and `finetune`: one phase of a trial, in a directory of its own."""

import argparse
import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

import adacomcat
from adacomcat.checks import require
from adacomcat.cli.console import Display
from adacomcat.cli.folder import EPOCHS, SEARCHES, RunFolder
from adacomcat.cli.process import is_first
from adacomcat.cli.request import finetune_config, search_config
from adacomcat.cli.sources import describe_images, origin_of
from adacomcat.cli.workers import Workers
from adacomcat.config import TrialConfig, leakage_note
from adacomcat.data import Splits, build_splits
from adacomcat.files import default_cache, sha256_file
from adacomcat.io.directory import read_plan
from adacomcat.parallel import wait_for_all
from adacomcat.training import Trial, dense_model
from adacomcat.training.clock import Clock
from adacomcat.training.dense import build_dense

WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: where, what, and from what it starts."""

    folder: RunFolder
    command: str
    config: TrialConfig
    """As asked; the phase that is not this command's is in it too."""
    source: Path | None = None
    """Directory of the model that a finetune starts from."""
    source_sha256: str | None = None
    """Of its weights."""
    stored: bool = False
    """Whether the directory is there already: a resume."""

    @property
    def trial_config(self) -> TrialConfig:
        """The configuration with this command's phase alone.

        The other phase has its recipe, for no epoch: what it says of precision and batches counts
        in the evaluation at the end.
        """
        this, other = "search_phase", "finetune"
        if self.command == "finetune":
            this, other = other, this
        empty = dataclasses.replace(getattr(self.config, this), epochs=0)
        return dataclasses.replace(self.config, **{other: empty})


class _Rows:
    """Writes a trial's rows as they come."""

    def __init__(self, folder: RunFolder, display: Display) -> None:
        self._folder, self._display = folder, display

    def epoch(self, row: dict[str, Any]) -> None:
        self._display.next_epoch()
        if is_first():
            self._folder.append(row, EPOCHS)

    def search(self, row: dict[str, Any]) -> None:
        if is_first():
            self._folder.append(row, SEARCHES)


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
    """Run a `search` or a `finetune`, or go on with one.

    Raises:
        ValueError: a setting, a file or a folder that cannot be used; nothing is left then.
        NonFiniteLoss: names phase, epoch and step.
        KeyboardInterrupt: with the command that goes on, where there is anything to go on with.
    """
    job = _resumed(arguments) if arguments.resume is not None else _asked(arguments)
    if job.stored and job.folder.finished:
        display.say(f"{job.folder.path}: finished already")
        _report(job, job.folder.summary(), display)
        return
    warn_of_leakage(job.config, display)
    workers = Workers(arguments.device)
    with display.shown(), _explained(job, display):
        splits = build_splits(job.config.data)
        dense = _dense(job, splits, workers, display)
        with workers.together():
            trial = _trial(job, dense, splits, workers.device, display)
            trial.clock = ShownClock(trial.device, display)
            summary = _run(job, trial, arguments.argv, display)
            _leave(job, trial, splits, summary)
    _report(job, summary, display)


def warn_of_leakage(config: TrialConfig, display: Display) -> None:
    """Say it loudly where the images that are reported on are used for more."""
    note = leakage_note(config.data.leakage)
    if note:
        display.say(note, "bold red")


def _asked(arguments: argparse.Namespace) -> Job:
    """The run that the flags describe."""
    folder = RunFolder(arguments.output)
    folder.refuse_used(arguments.command)
    if arguments.command == "search":
        return Job(folder, "search", search_config(arguments))
    source = arguments.source.absolute()
    config = finetune_config(arguments, origin_of(source))
    return Job(folder, "finetune", config, source, sha256_file(source / WEIGHTS))


def _resumed(arguments: argparse.Namespace) -> Job:
    """The run whose directory is named."""
    folder = RunFolder(arguments.resume)
    record = folder.read()
    command = record["command"]
    require(
        command == arguments.command,
        "--resume",
        str(folder.path),
        f"the directory of a {arguments.command}; this one goes on with "
        f"{folder.resume_command(command)}",
    )
    source, digest = record.get("from"), record.get("from_sha256")
    return Job(
        folder, command, folder.config(), Path(source) if source else None, digest, stored=True
    )


def _dense(job: Job, splits: Splits, workers: Workers, display: Display) -> nn.Module:
    """The dense model; trained by one worker of each machine, where it has to be."""
    device = workers.device
    if job.config.dense.recipe.epochs > 0:
        # What does not fit is refused before hours of training, not after.
        _trial(job, build_dense(job.config, splits), splits, device, display)
    with workers.first_of_machine_first():
        return dense_model(
            job.config, splits, default_cache(), device=device, progress=display.dense_epoch
        )


def _trial(job: Job, dense: nn.Module, splits: Splits, device: str, display: Display) -> Trial:
    return Trial(
        job.trial_config,
        dense=dense,
        splits=splits,
        directory=job.folder.path,
        reporter=_Rows(job.folder, display),
        device=device,
    )


def _run(job: Job, trial: Trial, argv: Sequence[str], display: Display) -> dict[str, Any]:
    """Make or open the directory, and train to the end."""
    if not job.stored:
        _adopt(job, trial)
        if is_first():
            more = {"from": str(job.source), "from_sha256": job.source_sha256}
            job.folder.create(job.command, job.config, argv, **(more if job.source else {}))
        wait_for_all()
    with job.folder.locked() if is_first() else nullcontext():
        if job.stored and not trial.resume():
            _adopt(job, trial)
        if is_first():
            job.folder.start_trace(trial.rows, EPOCHS)
            job.folder.start_trace(trial.search_rows, SEARCHES)
        epochs = trial.config.search_phase.epochs + trial.config.finetune.epochs
        display.start_epochs(epochs, len(trial.rows))
        summary = trial.run()
    assert summary is not None
    return summary


def _adopt(job: Job, trial: Trial) -> None:
    """Start from the model that the run is told to start from, if any."""
    if job.source is None:
        return
    found = sha256_file(job.source / WEIGHTS)
    require(
        found == job.source_sha256,
        str(job.source / WEIGHTS),
        f"SHA-256 {found}",
        f"{job.source_sha256}, the file that this run began with",
    )
    trial.adopt_(adacomcat.load(job.source), read_plan(job.source))


def _leave(job: Job, trial: Trial, splits: Splits, summary: dict[str, Any]) -> None:
    """Write the model, and then the summary, which says that all is there."""
    if is_first():
        model = trial.result
        describe_images(model, splits)
        adacomcat.save(model, job.folder.path, plan=trial.method.plan)
        job.folder.finish(
            {
                "command": job.command,
                "leakage": list(job.config.data.leakage),
                **summary,
                "split_hashes": dict(splits.hashes),
            }
        )
    wait_for_all()


def _report(job: Job, summary: dict[str, Any], display: Display) -> None:
    """Say what came out, and what can be done with it."""
    display.say(
        f"test accuracy {summary['test_acc']:.2%} (dense {summary['dense_test_acc']:.2%}), "
        f"searches {summary['searches']}"
    )
    for name, unit in (("parameters", "params"), ("MACs", "macs")):
        cost, dense = summary[unit], summary[f"dense_{unit}"]
        display.say(f"{name} {cost:,} of {dense:,} ({cost / dense - 1:+.1%})")
    warn_of_leakage(job.config, display)
    where = shlex.quote(str(job.folder.path))
    display.say(f"model in {where}")
    if job.command == "search":
        display.say(f"next: adacomcat finetune --from {where} --output NEW")


@contextmanager
def _explained(job: Job, display: Display) -> Iterator[None]:
    """Say how to go on after an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        again = "nothing is left; the same command starts again"
        if job.folder.exists:
            again = f"to go on: {job.folder.resume_command(job.command)}"
        display.say(f"interrupted; {again}", "bold")
        raise
