"""Entry point of studies: `python study/run.py --experiment adaptive_vs_fixed`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # As a script this file has `study/` at the head of the path, where `trial` or `schema` would
    # hide modules of other packages; what it needs is the folder above.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p or os.curdir).resolve() != _here]
    sys.path.insert(0, str(_here.parent))

from rich.console import Console
from rich.table import Table

from adacomcat.checks import require
from adacomcat.cli.process import FAILED, OK, guarded
from adacomcat.overrides import parse_settings
from study import cli
from study.execution.dryrun import dry_run
from study.execution.session import Session
from study.refusals import check_flags
from study.show.status import describe
from study.spec.catalog import (
    describe_experiment,
    experiment_names,
    load_experiment,
    recorder,
    workloads,
)
from study.spec.changes import with_flags
from study.spec.configfile import read_config
from study.spec.expand import apply_settings
from study.spec.schema import Experiment
from study.store import Results, load

AGAIN = "interrupted; --resume, or the same command, runs what is left"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Returns:
        0: all trials finished; 1: some failed, or the study could not go on; 2: the request was
        refused; 130, 143 or 129: interrupted by Ctrl-C, SIGTERM or SIGHUP.
    """
    arguments = cli.parser().parse_args(argv)
    return guarded(lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    # A pipe has no width: rich would fold the tables to 80 columns.
    console = Console(width=None if sys.stdout and sys.stdout.isatty() else 160)
    check_flags(arguments, ", ".join(experiment_names()))
    try:
        return _run(arguments, console)
    except KeyboardInterrupt:
        console.print(AGAIN, highlight=False)
        raise


def _run(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.list:
        _list(console)
        return OK
    if arguments.status is not None:
        results = Results(arguments.status.absolute())
        console.print(describe(results, load(results)))
        return OK
    request = cli.request(arguments)
    experiment, results = _study(arguments)
    if recorder(experiment.name) is not None:
        allowed = f"nothing: {experiment.name} is read from a log, with the settings that it had"
        require(not arguments.settings, "--set", arguments.settings, allowed)
    if arguments.dry_run:
        dry_run(experiment, results, request, console, estimate=arguments.estimate)
        return OK
    good = Session(experiment, results, request, arguments, console).run()
    return OK if good else FAILED


def _study(arguments: argparse.Namespace) -> tuple[Experiment, Results]:
    """The requested experiment, and its results directory."""
    if arguments.resume is not None:
        results = Results(arguments.resume.absolute())
        widened = with_flags(load(results), seeds=arguments.seeds, samples=arguments.samples)
        return widened, results
    settings, seeds = parse_settings(arguments.settings), arguments.seeds
    if arguments.config is not None:
        experiment = apply_settings(read_config(arguments.config), settings)
        experiment = with_flags(experiment, seeds=seeds)
    else:
        experiment = load_experiment(arguments.experiment, arguments.workload, seeds, settings)
    experiment = with_flags(
        experiment,
        samples=arguments.samples,
        sampler=arguments.sampler,
        objectives=arguments.objectives,
        no_stopping=arguments.no_stopping,
    )
    name = f"{experiment.name}-{experiment.workload.name}"
    root = arguments.results or Path("results", name)
    return experiment, Results(root.absolute())


def _list(console: Console) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("experiments")
    for name in experiment_names():
        table.add_row(f"  {name}", describe_experiment(name))
    table.add_row("workloads")
    for name, workload in workloads().items():
        table.add_row(f"  {name}", workload.description)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
