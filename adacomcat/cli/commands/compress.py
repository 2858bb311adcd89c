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
    "Compress a model to a share of its cost by its weights alone, and write it as a directory "
    "that info, eval, finetune and export take."
)


def add_flags(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("what to compress").add_argument
    what("--model", metavar="M", required=True, help="timm's name of the dense model")
    weights = "a file or a URL, timm (default: those of the tag in the name), or random"
    what("--weights", metavar="F", default="timm", help=weights)
    how = command.add_argument_group("how").add_argument
    share = "share of the dense cost to remove (default: 0.5)"
    how("--target-reduction", metavar="X", type=float, default=0.5, help=share)
    unit = "of the cost: params, macs, ... (default: params, or the first that the method counts)"
    how("--unit", metavar="U", help=unit)
    names = ", ".join(registrations())
    method = f"{names} (default: {DEFAULT}), or several on one model, joined by {JOIN}"
    how("--method", metavar="NAME", default=DEFAULT, help=method)
    strategy = "how the plan is found (default: uniform)"
    how("--strategy", metavar="NAME", default="uniform", help=strategy)
    how("--device", metavar="X", help="cpu or cuda (default: cuda where there is one)")
    flags.add_settings(how)
    where = command.add_argument_group("where").add_argument
    where("--output", metavar="DIR", type=Path, required=True, help="a new directory")


def check(arguments: argparse.Namespace) -> None:
    registrations_of(arguments.method, "--method")
    share = arguments.target_reduction
    require(0 < share < 1, "--target-reduction", share, "between 0 and 1")


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.compress import compress_command

    compress_command(arguments, display)
