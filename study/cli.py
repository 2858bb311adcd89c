"""Command-line flags of `study/run.py`."""

import argparse
from pathlib import Path

from study.execution.placement import Request


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="study/run.py",
        description="Run the trials of an experiment, go on with them, and draw its figures.",
    )
    _add_what(made.add_argument_group("what to run (one of these)"))
    _add_changes(made.add_argument_group("what to change"))
    _add_where(made.add_argument_group("where it runs"))
    _add_display(made.add_argument_group("what is shown"))
    return made


def _add_what(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--experiment", metavar="NAME", help="start an experiment (see --list), or go on with it")
    config = "start what a study.yaml describes; every study writes its own"
    add("--config", metavar="FILE", type=Path, help=config)
    add("--resume", metavar="RESULTS", type=Path, help="go on with the study in this directory")
    add("--status", metavar="RESULTS", type=Path, help="print what stands where; run nothing")
    add("--list", action="store_true", help="list experiments and workloads")


def _add_changes(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--workload", metavar="NAME", help="which workload (default: digits)")
    setting = "a setting of every arm, for instance search_phase.epochs=5; may be repeated"
    add("--set", metavar="A.B=C", action="append", default=[], dest="settings", help=setting)
    add("--seeds", metavar="N", type=int, help="seeds an arm (default: the experiment's)")
    add("--samples", metavar="N", type=int, help="arms that an exploration suggests")
    add("--sampler", choices=("tpe", "nsga2"), help="of an exploration (default: tpe)")
    add("--objectives", metavar="A,B", help="of an exploration, for instance val_acc,searches")
    add("--no-stopping", action="store_true", help="run every suggested arm to its end")
    widen = "let a study that is there grow: by --seeds, --samples, or the arms of --config"
    add("--extend", action="store_true", help=widen)
    where = "results directory (default: results/EXPERIMENT-WORKLOAD here)"
    add("--results", metavar="DIR", type=Path, help=where)


def _add_where(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--workers", metavar="N", type=int, default=1, help="workers of one trial (default: 1)")
    kinds = "plain Tune functions, or Ray Train runs; auto: Train with two or more workers"
    add("--executor", choices=("auto", "tune", "train"), default="auto", help=kinds)
    add("--cpus-per-worker", metavar="X", type=float, help="CPUs, and threads, of a worker")
    add("--gpus-per-worker", metavar="X", type=float, help="GPUs of a worker; may be a share")
    join = "join the Ray cluster there (HOST:PORT, or auto) instead of starting one"
    add("--address", metavar="ADDRESS", help=join)


def _add_display(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dry-run", action="store_true", help="print trials and resources, run nothing")
    price = "with --dry-run: bound the time, from a few steps of the most expensive arm"
    add("--estimate", action="store_true", help=price)
    add("--dashboard", action="store_true", help="start Ray's dashboard and print its address")
    add("--quiet", action="store_true", help="print failures and the result alone")
    also = "log the epochs there too; may be repeated"
    add(
        "--log-to",
        choices=("tensorboard", "mlflow", "wandb"),
        action="append",
        default=[],
        help=also,
    )


def request(arguments: argparse.Namespace) -> Request:
    """Resources that the flags request.

    Raises:
        ValueError: a figure out of range.
    """
    return Request(
        arguments.executor,
        arguments.workers,
        arguments.cpus_per_worker,
        arguments.gpus_per_worker,
    )
