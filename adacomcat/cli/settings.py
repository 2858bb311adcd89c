"""Settings from flags, `--set` and the file of `--config`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adacomcat.checks import require
from adacomcat.config import TrialConfig
from adacomcat.config.yaml import read_yaml
from adacomcat.files import sha256_file
from adacomcat.models.weights import TIMM
from adacomcat.overrides import build_config, parse_settings
from adacomcat.schedule import schedule_kind

Settings = dict[str, Any]


def default_device(asked: str | None) -> str:
    """The requested device; by default a GPU if there is one."""
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def fold(base: Settings, flags: Settings, arguments: argparse.Namespace) -> TrialConfig:
    """The configuration of a recipe, the file of `--config`, flags and `--set`, the last to win."""
    recipe = base | _precision(arguments)
    path = getattr(arguments, "config", None)
    file = {} if path is None else _file(path)
    return build_config(recipe, file, *layers_of(arguments, flags | flagged(arguments)))


def layers_of(arguments: argparse.Namespace, flags: Settings) -> tuple[Settings, Settings]:
    """Flags and `--set`, once it is known that none of them is given twice."""
    settings = given_settings(arguments)
    for key in settings:
        require(key not in flags, f"--set {key}", settings[key], "this or its flag, not both")
    return flags, settings


def flagged(arguments: argparse.Namespace) -> Settings:
    """The flags that are settings by their own names, see `adacomcat.cli.flags`."""
    names = (name for name in vars(arguments) if "." in name or name == "seed")
    return {
        name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None
    }


def _file(path: Path) -> Settings:
    """The settings of a file, once it is known that they are all valid.

    Raises:
        ValueError: a file that cannot be read, no YAML, or a setting that is refused; it is named.
    """
    try:
        settings = read_yaml(path.read_bytes())
        require(isinstance(settings, Mapping), "settings", settings, "a mapping")
        build_config(settings)
    except OSError as error:
        raise ValueError(f"--config: cannot read {path} ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return dict(settings)


def given_settings(arguments: argparse.Namespace) -> Settings:
    return parse_settings(arguments.settings)


def entries_of(settings: Settings, prefix: str) -> Settings:
    """`{"depth": 2}` of the settings `{"model.options.depth": 2}`."""
    start = f"{prefix}."
    whole = settings.get(prefix, {})
    require(isinstance(whole, Mapping), f"--set {prefix}", whole, "a mapping of settings")
    parts = {key.removeprefix(start): v for key, v in settings.items() if key.startswith(start)}
    return {**whole, **parts}


def schedule_settings(kind: str) -> Settings:
    return {"kind": schedule_kind(kind, "--schedule").kind}


def _precision(arguments: argparse.Namespace) -> Settings:
    """Float32 on a CPU, unless a setting says otherwise: most CPUs only emulate bfloat16."""
    if default_device(arguments.device).startswith("cuda"):
        return {}
    parts = ("dense.recipe", "search", "search_phase", "finetune")
    return {f"{part}.bf16": False for part in parts}


def weights_settings(arguments: argparse.Namespace) -> Settings:
    """Weights that are given are taken as they are: nothing trains them further."""
    given = arguments.weights
    if given is None:
        return {}
    flags: Settings = {"dense.weights": given, "dense.recipe.epochs": 0}
    if given != TIMM and "://" not in given:
        path = Path(given).expanduser().absolute()
        flags["dense.weights"] = str(path)
        if path.is_file() and "dense.sha256" not in given_settings(arguments):
            # So that a resume finds the same weights, and a result says which they were.
            flags["dense.sha256"] = sha256_file(path)
    return flags
