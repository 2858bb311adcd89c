"""`adacomcat export`: a finished model as a file of ONNX or torch.export, or for the hub."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adacomcat.cli import flags

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Write a finished model in a form that runs elsewhere, run that form, and print how far its "
    "logits are from the model's. The number of images in a batch stays free."
)
EXPORTS = {"onnx": ".onnx", "torch-export": ".pt2", "hub": ""}
"""Format -> file extension; a folder has none."""


def add_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    flags.add_source(add, required=True)
    add("--to", choices=EXPORTS, required=True, help="what to write")
    output = "a new file (.onnx or .pt2), or for the hub a new directory"
    add("--output", metavar="DIR_OR_FILE", type=Path, required=True, help=output)


def check(arguments: argparse.Namespace) -> None:
    if arguments.to != "hub":
        flags.check_file(arguments.output, EXPORTS[arguments.to])


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.export import export

    export(arguments, display)
