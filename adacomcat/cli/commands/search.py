"""`adacomcat search`: the search phase of a trial, in a directory of its own."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adacomcat.checks import require
from adacomcat.cli import flags
from adacomcat.methods.registry import DEFAULT, JOIN, registrations, registrations_of

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Search the ranks of a model while it trains, or how many tokens its blocks keep. Without "
    "--workload the data is a folder with train/ and val/, and the recipe DeiT's."
)
PRESETS = ("upstream",)


def add_flags(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("what to compress").add_argument
    flags.add_model(what)
    preset = "upstream: search as the published code does (of ranks: on the test images)"
    what("--preset", choices=PRESETS, help=preset)
    how = command.add_argument_group("how").add_argument
    names = ", ".join(registrations())
    method = f"{names} (default: {DEFAULT}), or several on one model, joined by {JOIN}"
    how("--method", metavar="NAME", help=method)
    share = "share of the dense cost to remove"
    how("--target-reduction", metavar="X", type=float, dest="budget.reduction", help=share)
    gmacs = "billions of multiply-accumulates that the model may have, in place of a reduction"
    how("--target-gmacs", metavar="X", type=float, help=gmacs)
    table = "a file of `latency`: the budget is then in time, on the device measured there"
    how("--latency-table", metavar="FILE", type=Path, help=table)
    how("--schedule", metavar="KIND", help="when to search: adaptive, fixed, once, never, ...")
    size = "images of one step of a search"
    how("--search-batch-size", metavar="N", type=int, dest="search.batch_size", help=size)
    flags.add_recipe(how, "search_phase")
    flags.add_place(command.add_argument_group("where").add_argument, "search")


def check(arguments: argparse.Namespace) -> None:
    if flags.check_resumed(arguments):
        return
    if arguments.method is not None:
        registrations_of(arguments.method, "--method")
    flags.check_data(arguments)
    names = ("target_gmacs", "budget.reduction", "latency_table")
    targets = flags.given(arguments, names)
    alone = len(targets) < 2 or "--target-gmacs" not in targets
    require(alone, " / ".join(targets), "given", "--target-gmacs alone: it is the whole budget")
    gmacs = arguments.target_gmacs
    require(gmacs is None or gmacs > 0, "--target-gmacs", gmacs, "above 0")


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.train import train

    train(arguments, display)
