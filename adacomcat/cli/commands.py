"""From a command's name to what it does."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from adacomcat.checks import NonFiniteLoss
from adacomcat.cli.console import Display
from adacomcat.cli.convert import convert
from adacomcat.cli.evaluate import evaluate_command
from adacomcat.cli.export import export
from adacomcat.cli.info import info
from adacomcat.cli.latency import latency
from adacomcat.cli.trace import trace
from adacomcat.cli.train import train
from adacomcat.cli.workers import is_first


def run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run a checked command; returns the exit status.

    Raises:
        ValueError: a request that is refused.
        OSError: a file that cannot be read or written.
        KeyboardInterrupt: as it came.
    """
    # A pipe has no width: rich would fold tables to 80 columns.
    width = None if sys.stdout.isatty() else 160
    # JSON has standard output for itself.
    console = Console(width=width, stderr=getattr(arguments, "json", False))
    display = Display(console, first=is_first())
    try:
        if arguments.command in ("search", "finetune"):
            train(arguments, argv, display)
        elif arguments.command == "eval":
            evaluate_command(arguments, display)
        elif arguments.command == "info":
            info(arguments, console)
        elif arguments.command == "latency":
            latency(arguments, display)
        elif arguments.command == "export":
            export(arguments, display)
        elif arguments.command == "trace":
            trace(arguments, display)
        else:
            convert(arguments, display)
    except NonFiniteLoss as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
