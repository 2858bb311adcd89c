"""`adacomcat models`: supported models, their searched sites, and what is refused."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Model families with the patterns of their names, what is searched and what is refused; with "
    "PATTERN the models whose names it matches, one by one."
)


def add_flags(command: argparse.ArgumentParser) -> None:
    text = "names to look at, for instance 'vit_small*'; each is built without weights"
    command.add_argument("pattern", metavar="PATTERN", nargs="?", help=text)
    command.add_argument("--json", action="store_true", help="print JSON")


def check(arguments: argparse.Namespace) -> None:
    """Any pattern will do."""


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.families import models

    models(arguments, display.console)
