"""`adacomcat eval`: the accuracy of a compressed or a dense model on one split."""

import argparse
from typing import TYPE_CHECKING

from adacomcat.checks import require
from adacomcat.cli import flags

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = "Accuracy on the test images (of a folder: val/), or on those that selection uses."
SPLITS = ("test", "val")


def add_flags(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("which model: --from, --comcat-dir, or neither").add_argument
    flags.add_stored(what)
    flags.add_model(what)
    flags.add_published(what)
    how = command.add_argument_group("how").add_argument
    how("--split", choices=SPLITS, default="test", help="which images (default: test)")
    how("--batch-size", metavar="N", type=int, default=256, help="images at once (default: 256)")
    flags.add_settings(how)
    flags.add_machine(how)
    how("--json", action="store_true", help="print JSON")


def check(arguments: argparse.Namespace) -> None:
    size = arguments.batch_size
    require(size > 0, "--batch-size", size, "1 or more")
    if flags.check_published(arguments):
        found = flags.given(arguments, ("source", "comcat_dir"))
        require(not found, " / ".join(found), "given", "nothing with --published-rate")
    elif arguments.workload is None or arguments.weights is not None:
        flags.one_of(arguments, "source", "comcat_dir", "weights")
    if arguments.source is not None:
        require(arguments.model is None, "--model", arguments.model, "nothing with --from")
    else:
        flags.check_data(arguments)


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.evaluate import evaluate_command

    evaluate_command(arguments, display)
