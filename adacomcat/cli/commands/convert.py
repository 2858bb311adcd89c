"""`adacomcat convert`: checkpoints of the reference to model directories, and back."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from adacomcat.checks import require
from adacomcat.cli import flags

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Make a model directory of the published code's checkpoint.pth and ranks.txt, or these of it."
)


def add_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    flags.add_stored(add)
    add("--model", metavar="M", help="timm's name of the dense model")
    to = "what to write (default: adacomcat)"
    add("--to", choices=("adacomcat", "comcat"), default="adacomcat", help=to)
    flags.add_settings(add)
    add("--output", metavar="DIR", type=Path, required=True, help="a new directory")


def check(arguments: argparse.Namespace) -> None:
    flags.one_of(arguments, "source", "comcat_dir")
    flags.check_model(arguments)
    foreign = arguments.comcat_dir is not None
    allowed = "adacomcat with --comcat-dir, comcat with --from"
    require((arguments.to == "adacomcat") == foreign, "--to", arguments.to, allowed)


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.sources import stored_model
    from adacomcat.io.comcat import save_comcat
    from adacomcat.io.directory import save
    from adacomcat.io.run import Run

    output = Run(arguments.output)
    output.refuse_used()
    model, _ = stored_model(arguments)
    (save_comcat if arguments.to == "comcat" else save)(model, output.path)
    display.say(f"written to {shlex.quote(str(output.path))}")
