"""`convert`: the reference's checkpoint to a directory of ours, and back."""

import argparse
import shlex

import adacomcat
from adacomcat.cli.console import Display
from adacomcat.cli.folder import RunFolder
from adacomcat.cli.models import stored_model
from adacomcat.io.comcat import save_comcat


def convert(arguments: argparse.Namespace, display: Display) -> None:
    """Read one form and write the other.

    Raises:
        ValueError: a directory that is damaged or foreign, a model that the other form cannot
            hold, or an output that is there already.
    """
    output = RunFolder(arguments.output)
    output.refuse_used(arguments.command)
    model, _ = stored_model(arguments)
    if arguments.to == "comcat":
        save_comcat(model, output.path)
    else:
        adacomcat.save(model, output.path)
    display.say(f"written to {shlex.quote(str(output.path))}")
