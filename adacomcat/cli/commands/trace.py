"""`adacomcat trace`: the patches of an image that each token stands for, as a file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adacomcat.cli import flags

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Run images through a model that drops tokens, and write what became of their patches, block "
    "by block; `python analysis/fig_token_sources.py FOLDER` draws it."
)


def add_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    flags.add_source(add, required=True)
    images = "pictures, one row of the figure each"
    add("--image", metavar="F", type=Path, nargs="+", required=True, help=images)
    output = "a new file; FOLDER/tokens.npz is what the figure looks for"
    add("--output", metavar="FILE", type=Path, required=True, help=output)


def check(arguments: argparse.Namespace) -> None:
    flags.check_file(arguments.output, ".npz")


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.trace import trace

    trace(arguments, display)
