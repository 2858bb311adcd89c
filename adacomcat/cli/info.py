"""`info`: ranks, tokens, parameters and multiply-accumulates of a model, part by part."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from adacomcat.cli.folder import skeleton
from adacomcat.cli.request import model_options, published_of
from adacomcat.cli.sources import stored_model
from adacomcat.config import ModelConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.io.comcat import insert_ranks_
from adacomcat.methods.specs import summaries, table
from adacomcat.methods.summary import UNITS, Summary
from adacomcat.models.registry import input_shape


def info(arguments: argparse.Namespace, console: Console) -> None:
    """Print the table, or JSON with `params` and `macs` at the top level.

    Raises:
        ValueError: files that cannot be read, or that are not of this model.
    """
    if arguments.source is not None or arguments.comcat_dir is not None:
        model, dense = stored_model(arguments)
    else:
        config = ModelConfig(name=arguments.model, options=model_options(arguments))
        model, dense = skeleton(config), skeleton(config)
    if arguments.ranks is not None:
        insert_ranks_(model, arguments.ranks, biases=arguments.biases == "exact")
    if arguments.published_rate is not None:
        published_of(arguments).insert_(model, config.name, arguments.published_rate)
    totals, found = totals_of(model, dense), summaries(model, dense)
    if arguments.json:
        print(json.dumps(totals | table(found), indent=2))
        return
    for summary in found:
        console.print(_table(summary, totals), highlight=False)
    if not any("params" in summary.units for summary in found):
        params, share = _cost(totals, "params")
        console.print(f"parameters {params}, {share} of dense", highlight=False)


def totals_of(model: nn.Module, dense: nn.Module) -> dict[str, int]:
    """`params`, `macs`, `dense_params` and `dense_macs` of a model.

    Args:
        model: with what the methods put into it, or dense.
        dense: the same without; on the meta device it will do.
    """
    return {
        "params": count_params(model),
        "macs": count_macs(model, input_shape(model)),
        "dense_params": count_params(dense),
        "dense_macs": count_macs(dense, input_shape(dense)),
    }


def _table(summary: Summary, totals: Mapping[str, Any]) -> Table:
    """The rows of a summary, all else, and the whole model."""
    made = Table(box=None, pad_edge=False)
    costs = [title for unit in summary.units for title in (UNITS[unit], "of dense")]
    for index, title in enumerate([*summary.columns, *costs]):
        made.add_column(title, justify="right" if index else "left")
    for row in summary.rows:
        made.add_row(*summary.cells(row), *_costs(row, summary))
    blank = [""] * (len(summary.columns) - 1)
    made.add_row(summary.rest, *blank, *_costs(_rest(summary, totals), summary))
    made.add_section()
    made.add_row("model", *blank, *_costs(totals, summary), style="bold")
    for title, name in summary.total_titles.items():
        made.add_row(title, *blank, *_cost(summary.totals, name))
    return made


def _rest(summary: Summary, totals: Mapping[str, Any]) -> dict[str, Any]:
    """Costs of the model that no row contains."""
    keys = [f"{kind}{unit}" for unit in summary.units for kind in ("", "dense_")]
    return {key: totals[key] - sum(row[key] for row in summary.rows) for key in keys}


def _costs(row: Mapping[str, Any], summary: Summary) -> list[str]:
    return [cell for unit in summary.units for cell in _cost(row, unit)]


def _cost(row: Mapping[str, Any], unit: str) -> list[str]:
    """A cost, and its share of the dense model's."""
    cost, dense = row[unit], row[f"dense_{unit}"]
    return [f"{cost:,}", f"{cost / dense:.1%}" if dense else ""]
