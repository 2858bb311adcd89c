"""The command `adacomcat`: its subcommands by name, each in a module that is loaded when used."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from adacomcat.checks import Refusal
from adacomcat.cli.flags import flag
from adacomcat.cli.process import guarded

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "compress": "compress a model in one go, without data and without training",
        "search": "search ranks or token counts of a model",
        "finetune": "train what a search has left",
        "eval": "accuracy of a compressed or a dense model",
        "info": "ranks, tokens, parameters and MACs, part by part",
        "convert": "from and to the checkpoints of the published code",
        "models": "which models are supported, what is searched and what is refused",
        "latency": "measure what a latency budget counts",
        "export": "to ONNX, torch.export or the Hugging Face hub",
        "trace": "which patches of an image each token stands for",
        "study": "many trials: arms, seeds and explorations, with Ray",
    }
)
"""Name -> help. `adacomcat.cli.commands.NAME` has `DESCRIPTION`, `add_flags`, `check` and `run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; see `guarded` for what that is."""
    given = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(given))


def parse(given: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, checked; the parser of no other command is built.

    Raises:
        ValueError: flags that do not go together.
        SystemExit: after a message of argparse, or its help.
    """
    made = argparse.ArgumentParser(
        prog="adacomcat",
        description="Compress vision transformers, and decide how often the search must run.",
        epilog="On several GPUs: torchrun --nproc-per-node N -m adacomcat search ...",
    )
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in given[:1]:
            module = command_module(name)
            command.description = module.DESCRIPTION
            module.add_flags(command)
    arguments = made.parse_args(given)
    command_module(arguments.command).check(arguments)
    return arguments


def command_module(name: str) -> Any:
    """The module of a command; it imports PyTorch only when it runs."""
    return importlib.import_module(f"adacomcat.cli.commands.{name}")


def _run(given: list[str]) -> int:
    if given[:1] == ["study"]:
        # Its flags are the study's own.
        status: int = command_module("study").run(given[1:])
        return status
    arguments = parse(given)
    # Not at the top: help needs none of it.
    from adacomcat.cli.console import make_display

    arguments.argv = given
    display = make_display(json=getattr(arguments, "json", False))
    try:
        command_module(arguments.command).run(arguments, display)
    except Refusal as refusal:
        # What the user typed, where a flag made the setting.
        typed = flag(refusal.field)
        if typed not in given:
            raise
        raise Refusal(typed, refusal.reason) from None
    return 0
