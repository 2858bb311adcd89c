"""`adacomcat compress`: one-shot compression, without labels and without training."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adacomcat.checks import require
from adacomcat.cli import flags
from adacomcat.methods.registry import DEFAULT, JOIN, registrations, registrations_of

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Compress a model to a share of its cost, by its weights and a few images without labels, and "
    "write it as a directory that info, eval, finetune and export take."
)


def add_flags(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("what to compress").add_argument
    what("--model", metavar="M", required=True, help="timm's name of the dense model")
    weights = "a file or a URL, timm (default: those of the tag in the name), or random"
    what("--weights", metavar="F", default="timm", help=weights)
    images = "a folder of images like those that the model will see; labels are not needed"
    what("--images", metavar="DIR", type=Path, help=images)
    count = "images to look at, drawn at random from the folder (default: 64)"
    what("--count", metavar="N", type=int, default=64, help=count)
    what("--seed", metavar="N", type=int, default=0, help="of the draw (default: 0)")
    how = command.add_argument_group("how").add_argument
    share = "share of the dense cost to remove (default: 0.5)"
    how("--target-reduction", metavar="X", type=float, default=0.5, help=share)
    unit = "of the cost: params, macs, ... (default: params, or the first that the method counts)"
    how("--unit", metavar="U", help=unit)
    names = ", ".join(registrations())
    method = f"{names} (default: {DEFAULT}), or several on one model, joined by {JOIN}"
    how("--method", metavar="NAME", default=DEFAULT, help=method)
    strategy = (
        "how the plan is found: sensitivity, measured, energy, effective_rank or uniform (default: "
        "sensitivity with --images, else uniform)"
    )
    how("--strategy", metavar="NAME", help=strategy)
    table = "a file of `latency`: the reduction is then in time, on the device measured there"
    how("--latency-table", metavar="FILE", type=Path, help=table)
    how("--device", metavar="X", help="cpu or cuda (default: cuda where there is one)")
    flags.add_settings(how)
    after = command.add_argument_group("before and after").add_argument
    labeled = "a folder with one folder for each class: measure the accuracy on it"
    after("--evaluate", metavar="DIR", type=Path, help=labeled)
    where = command.add_argument_group("where").add_argument
    where("--output", metavar="DIR", type=Path, required=True, help="a new directory")


def check(arguments: argparse.Namespace) -> None:
    registrations_of(arguments.method, "--method")
    share = arguments.target_reduction
    require(0 < share < 1, "--target-reduction", share, "between 0 and 1")
    require(arguments.count >= 1, "--count", arguments.count, "1 or more")
    timed, unit = arguments.latency_table is not None, arguments.unit
    require(not timed or unit in (None, "latency"), "--unit", unit, "latency with --latency-table")


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.compress import compress_command

    compress_command(arguments, display)
