"""`adacomcat latency`: measured times of a model on a device, for a latency budget."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adacomcat.checks import require
from adacomcat.cli import flags

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Measure a dense model, and the modules of one block at every rank of the space, on the device "
    "that the compressed model is for. `search --latency-table FILE` takes what it left."
)
DTYPES = ("float32", "bfloat16")


def add_flags(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("of what").add_argument
    what("--model", metavar="M", required=True, help="timm's name of the dense model")
    flags.add_settings(what)
    how = command.add_argument_group("how").add_argument
    how("--device", metavar="X", help="cpu or cuda (default: cuda where there is one)")
    how("--batch-size", metavar="N", type=int, default=8, help="images of a call (default: 8)")
    how("--dtype", choices=DTYPES, default=DTYPES[0], help=f"(default: {DTYPES[0]})")
    how("--threads", metavar="T", type=int, help="of PyTorch on a CPU (default: as it finds best)")
    how("--repeats", metavar="N", type=int, default=20, help="rounds (default: 20)")
    how("--output", metavar="FILE", type=Path, required=True, help="a new file")


def check(arguments: argparse.Namespace) -> None:
    for name in ("batch_size", "threads", "repeats"):
        number = getattr(arguments, name)
        require(number is None or number > 0, flags.flag(name), number, "1 or more")
    flags.check_file(arguments.output)


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.latency import latency

    latency(arguments, display)
