"""Run an experiment: `python study/run.py --experiment adaptive_vs_fixed`."""

import argparse
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # As a script this file has `study/` at the head of the path, where `trial` or `schema` would
    # hide modules of other packages; what it needs is the folder above.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p or os.curdir).resolve() != _here]
    sys.path.insert(0, str(_here.parent))

from rich.console import Console
from rich.table import Table

from adacomcat.checks import require
from study import cluster, provenance
from study.catalog import (
    describe_experiment,
    experiment_names,
    load_experiment,
    workloads,
)
from study.expand import arm_configs, expand
from study.monitor import LiveMonitor, Monitor, PlainMonitor
from study.overrides import parse_settings
from study.schema import Experiment, TrialSpec
from study.store import Results

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="study/run.py", description="Run the trials of an experiment and draw its figure."
    )
    add = made.add_argument
    add("--experiment", metavar="NAME", help="which experiment (see --list)")
    add("--workload", metavar="NAME", help="which workload (default: digits)")
    setting = "a setting of every arm, for instance search_phase.epochs=5; may be repeated"
    add("--set", metavar="A.B=C", action="append", default=[], dest="settings", help=setting)
    add("--seeds", metavar="N", type=int, help="seeds an arm (default: the experiment's)")
    where = "results directory (default: results/EXPERIMENT-WORKLOAD here)"
    add("--results", metavar="DIR", type=Path, help=where)
    add("--list", action="store_true", help="list experiments and workloads")
    add("--dry-run", action="store_true", help="print the trials, run nothing")
    add("--workers", metavar="N", type=int, default=1, help="workers of one trial (default: 1)")
    kinds = "plain Tune functions, or Ray Train runs; auto: Train with two or more workers"
    add("--executor", choices=("auto", "tune", "train"), default="auto", help=kinds)
    add("--cpus-per-worker", metavar="X", type=float, help="CPUs, and threads, of a worker")
    add("--gpus-per-worker", metavar="X", type=float, help="GPUs of a worker; may be a share")
    add("--dashboard", action="store_true", help="start Ray's dashboard and print its address")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Returns:
        0: all trials finished; 1: some failed; 2: the request was refused; 130: interrupted.
    """
    arguments = parser().parse_args(argv)
    # A pipe has no width: rich would fold the tables to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        if arguments.list:
            return _list(console)
        return _run(arguments, console)
    except ValueError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return USAGE
    except KeyboardInterrupt:
        console.print("interrupted; the same command runs what is left", highlight=False)
        return INTERRUPTED


def _list(console: Console) -> int:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("experiments")
    for name in experiment_names():
        table.add_row(f"  {name}", describe_experiment(name))
    table.add_row("workloads")
    for name, workload in workloads().items():
        table.add_row(f"  {name}", workload.description)
    console.print(table)
    return OK


def _run(arguments: argparse.Namespace, console: Console) -> int:
    require(arguments.experiment is not None, "--experiment", None, ", ".join(experiment_names()))
    seeds = arguments.seeds
    require(seeds is None or seeds >= 1, "--seeds", seeds, "1 or more")
    request = cluster.Request(
        arguments.executor, arguments.workers, arguments.cpus_per_worker, arguments.gpus_per_worker
    )
    experiment = load_experiment(arguments.experiment, arguments.workload, seeds)
    settings = parse_settings(arguments.settings)
    specs = expand(experiment, settings)
    root = arguments.results or Path("results", f"{experiment.name}-{experiment.workload.name}")
    results = Results(root.absolute())
    if arguments.dry_run:
        return _dry_run(specs, results, console)
    results.check(experiment, arm_configs(experiment, settings))
    unfinished = _execute(experiment, settings, specs, results, request, arguments, console)
    return _conclude(experiment, results, unfinished, console)


def _dry_run(specs: Sequence[TrialSpec], results: Results, console: Console) -> int:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", no_wrap=True)
    for name in ("schedule", "epochs", "status", "needs"):
        table.add_column(name, overflow="fold")
    for spec in specs:
        schedule = dict(spec.config["schedule"])
        kind = schedule.pop("kind")
        coefficients = ", ".join(f"{k}={v}" for k, v in schedule.items())
        phases = (spec.config["search_phase"]["epochs"], spec.config["finetune"]["epochs"])
        table.add_row(
            spec.trial_id,
            f"{kind}({coefficients})",
            " + ".join(str(epochs) for epochs in phases),
            results.status(spec.trial_id),
            ", ".join(spec.needs.values()),
        )
    console.print(table)
    console.print(
        f"{len(specs)} trials, results in {results.root}", highlight=False, soft_wrap=True
    )
    return OK


def _execute(
    experiment: Experiment,
    settings: dict[str, Any],
    specs: list[TrialSpec],
    results: Results,
    request: cluster.Request,
    arguments: argparse.Namespace,
    console: Console,
) -> list[str]:
    """Run what is not finished; returns the ids of the trials that did not finish."""
    from study.trial import Job, check_buildable, default_cache, prepare_dense

    finished = [s.trial_id for s in specs if results.status(s.trial_id) == "finished"]
    if len(finished) == len(specs):
        console.print(f"all {len(specs)} trials are finished already", highlight=False)
        return []
    by_arm = {spec.arm: spec.trial_config() for spec in specs}
    check_buildable(list(by_arm.values()))
    address = cluster.start(dashboard=arguments.dashboard)
    placement = cluster.place(request, cluster.node_resources())
    if address:
        note = f"dashboard: {address} (`ray get-auth-token` prints its token)"
        console.print(note, highlight=False, soft_wrap=True)
    git = provenance.git_state(provenance.repository())
    results.begin(
        experiment, arm_configs(experiment, settings),
        command=shlex.join(sys.argv), provenance=provenance.collect(git),
    )  # fmt: skip
    for spec in specs:
        results.add(spec)
    job = Job(str(results.root), str(default_cache()), placement, git)

    from study.tuner import (
        run_study,  # Not at the top: Ray reads its settings when imported.
    )

    monitor = _monitor(console, specs, finished)
    with _warnings_to(results.root / "study.log"), monitor:
        for config in by_arm.values():
            prepare_dense(config, Path(job.cache), placement.device, monitor.dense)
        return run_study(specs, job, monitor)


def _monitor(console: Console, specs: list[TrialSpec], finished: list[str]) -> Monitor:
    kind = LiveMonitor if console.is_terminal else PlainMonitor
    return kind(console, specs, finished)


@contextmanager
def _warnings_to(path: Path) -> Iterator[None]:
    """Send warnings and log records to a file, so that none is lost and none spoils the display."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, ray = logging.getLogger(), logging.getLogger("ray")
    before = ray.handlers, ray.propagate
    root.addHandler(handler)
    ray.handlers, ray.propagate = [], True
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        ray.handlers, ray.propagate = before
        root.removeHandler(handler)
        handler.close()


def _conclude(
    experiment: Experiment, results: Results, unfinished: list[str], console: Console
) -> int:
    """Draw the figures, which print their tables; name what failed."""
    status = OK
    if any(record["status"] == "finished" for record in results.trials()):
        drawn = [_draw(figure, results, console) for figure in experiment.figures]
        status = OK if all(drawn) else FAILED
    console.print(f"results: {results.root}", highlight=False, soft_wrap=True)
    for trial_id in unfinished:
        record = results.trial(trial_id)
        assert record is not None
        reason = (record["error"] or record["status"]).splitlines()[0]
        console.print(
            f"failed: {trial_id}: {reason}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if unfinished:
        console.print(
            f"tracebacks: {results.root}/trials/*/trial.json", highlight=False, soft_wrap=True
        )
        status = FAILED
    return status


def _draw(figure: str, results: Results, console: Console) -> bool:
    """Draw a figure in a process of its own: `analysis` is no part of a study."""
    root = str(provenance.repository())
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", f"analysis.{figure}", str(results.root)],
        env=os.environ | {"PYTHONPATH": paths, "MPLBACKEND": "Agg"},
        capture_output=True, text=True,
    )  # fmt: skip
    console.print(done.stdout.rstrip(), markup=False, highlight=False, soft_wrap=True)
    if done.returncode:
        message = f"{figure} failed:\n{done.stderr.rstrip()}"
        console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
