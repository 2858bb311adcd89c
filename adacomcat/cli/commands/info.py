"""`adacomcat info`: ranks, tokens, parameters and multiply-accumulates, part by part."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adacomcat.checks import require
from adacomcat.cli import flags

if TYPE_CHECKING:
    from adacomcat.cli.console import Display

DESCRIPTION = (
    "Ranks of a model, site by site, tokens that its blocks keep, and what all of it costs; of "
    "--model alone what the dense model has and costs."
)


def add_flags(command: argparse.ArgumentParser) -> None:
    title = "of what: --from, --comcat-dir, or --model with --ranks, --published-rate or neither"
    what = command.add_argument_group(title).add_argument
    flags.add_stored(what)
    what("--model", metavar="M", help="timm's name of the dense model")
    what("--ranks", metavar="F", type=Path, help="a ranks.txt: 4 numbers a block, then the head's")
    biases = "of attention, with --ranks: folded into the factors, or dropped as published"
    what("--biases", choices=("exact", "drop"), help=biases)
    flags.add_published(what)
    flags.add_settings(what)
    what("--json", action="store_true", help="print JSON")


def check(arguments: argparse.Namespace) -> None:
    names = ("source", "comcat_dir", "ranks", "published_rate")
    if arguments.model is None or flags.given(arguments, names):
        flags.one_of(arguments, *names)
    flags.check_published(arguments)
    flags.check_model(arguments)
    with_ranks = arguments.ranks is not None
    require(not with_ranks or arguments.biases is not None, "--biases", None, "exact, drop")
    alone = with_ranks or arguments.biases is None
    require(alone, "--biases", arguments.biases, "only with --ranks: the weights tell")


def run(arguments: argparse.Namespace, display: "Display") -> None:
    from adacomcat.cli.info import info

    info(arguments, display.console)
