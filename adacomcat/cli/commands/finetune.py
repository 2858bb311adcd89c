"""`adacomcat finetune`: the finetune phase of a trial, in a directory of its own."""

import argparse
from typing import TYPE_CHECKING

from adacomcat.checks import require
from adacomcat.cli import flags

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Train a compressed model further; its ranks and token counts stay. A model that comes without "
    "its data (of `convert` or adacomcat.save) takes --data and --weights."
)


def add_flags(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("what to train").add_argument
    flags.add_source(what)
    flags.add_data(what)
    weights = "of the dense model that teaches; the one of the search if left out"
    what("--weights", metavar="F", help=weights)
    flags.add_recipe(command.add_argument_group("how").add_argument, "finetune")
    flags.add_place(command.add_argument_group("where").add_argument, "finetune")


def check(arguments: argparse.Namespace) -> None:
    if not flags.check_resumed(arguments):
        require(arguments.source is not None, "--from", None, "the directory of a search")


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.train import train

    train(arguments, display)
