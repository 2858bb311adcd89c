"""Tables of the model families, and of single models by their names."""

import argparse
import fnmatch
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from adacomcat.checks import require
from adacomcat.cli.folder import skeleton
from adacomcat.config import ModelConfig
from adacomcat.methods.lowrank.space import all_sites
from adacomcat.models.base import ModelFamily
from adacomcat.models.registry import families


def models(arguments: argparse.Namespace, console: Console) -> None:
    """Print the families, or the models whose names a pattern matches; as JSON if requested.

    Raises:
        ValueError: a pattern that matches no name.
    """
    if arguments.pattern is None:
        content = [family_row(family) for family in families()]
        shown = [_family_table(row) for row in content]
    else:
        content = model_rows(arguments.pattern)
        shown = [_models_table(content)]
    if arguments.json:
        print(json.dumps(content, indent=2))
        return
    for table in shown:
        console.print(table, highlight=False)
        console.print()


def family_row(family: ModelFamily) -> dict[str, Any]:
    """Summary of a family: `family`, `names`, `models`, `searched`, `refused`."""
    support = family.support()
    return {
        "family": family.name,
        "names": list(support.names),
        "models": len(family.names()),
        "searched": dict(support.searched),
        "refused": dict(support.refused),
    }


def model_rows(pattern: str) -> list[dict[str, Any]]:
    """Every model of a name like the pattern: `model`, `family`, `ranks`, `tokens`.

    The last two say what can be searched, or in one line why nothing can.

    Raises:
        ValueError: no name is like it.
    """
    found = [
        (family, name)
        for family in families()
        for name in family.names()
        if fnmatch.fnmatch(name, pattern)
    ]
    require(bool(found), "PATTERN", pattern, "a pattern of names, for instance 'vit_small*'")
    return [_model_row(family, name) for family, name in found]


def _model_row(family: ModelFamily, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "family": family.name}
    try:
        model = skeleton(ModelConfig(name=name))
    except ValueError as refused:
        return row | dict.fromkeys(("ranks", "tokens"), f"refused: {refused}")
    try:
        row["ranks"] = f"{len(all_sites(family.view(model)))} sites"
    except ValueError as refused:
        row["ranks"] = f"refused: {refused}"
    try:
        row["tokens"] = f"{family.tokens(model).depth} blocks"
    except ValueError as refused:
        row["tokens"] = f"refused: {refused}"
    return row


def _family_table(row: dict[str, Any]) -> Table:
    title = f"{row['family']}: {', '.join(row['names'])} ({row['models']} names)"
    made = Table(box=None, pad_edge=False, title=title, title_justify="left", show_header=False)
    for what, words in row["searched"].items():
        made.add_row("searched", what, words)
    for what, why in row["refused"].items():
        made.add_row("refused", what, why)
    return made


def _models_table(rows: list[dict[str, Any]]) -> Table:
    made = Table(box=None, pad_edge=False)
    for name in ("model", "family", "ranks", "tokens"):
        made.add_column(name)
    for row in rows:
        made.add_row(*(row[name] for name in ("model", "family", "ranks", "tokens")))
    return made
