"""`info`: ranks, tokens, parameters and multiply-accumulates of a model, part by part."""

import argparse
import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from adacomcat.cli.request import model_options, skeleton
from adacomcat.cli.sources import drop_published_, stored_model
from adacomcat.config import ModelConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.io.comcat import read_ranks
from adacomcat.methods.lowrank.spec import shape_, shapes_for
from adacomcat.methods.specs import table
from adacomcat.models.registry import input_shape


@dataclass(frozen=True)
class Totals:
    """What a model costs beside its dense one."""

    params: int
    macs: int
    dense_params: int
    dense_macs: int


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
        plan = read_ranks(arguments.ranks, model)
        shape_(model, shapes_for(model, plan, biases=arguments.biases == "exact"))
    if arguments.published_rate is not None:
        drop_published_(model, config.name, arguments.published_rate)
    content = describe_model(model, dense)
    if arguments.json:
        print(json.dumps(content, indent=2))
    else:
        for each in _tables(content):
            console.print(each, highlight=False)
        if not content["sites"]:
            params, share = _cost(content, "params")
            console.print(f"parameters {params}, {share} of dense", highlight=False)


def describe_model(model: nn.Module, dense: nn.Module) -> dict[str, Any]:
    """Costs of a model, in all and by site or block.

    Args:
        model: with what the methods put into it, or dense.
        dense: the same without; on the meta device it will do.

    Returns:
        `params`, `macs`, `dense_params`, `dense_macs`, and what `methods.specs.table` gives.
    """
    totals = Totals(
        params=count_params(model),
        macs=count_macs(model, input_shape(model)),
        dense_params=count_params(dense),
        dense_macs=count_macs(dense, input_shape(dense)),
    )
    return {**vars(totals), **table(model, dense)}


def _tables(content: dict[str, Any]) -> list[Table]:
    """Of the blocks, where tokens may go, and of the sites, where there are ranks."""
    shown = []
    if content["blocks"]:
        shown.append(_blocks_table(content))
    if content["sites"]:
        shown.append(_sites_table(content))
    return shown


def _blocks_table(content: dict[str, Any]) -> Table:
    made = Table(box=None, pad_edge=False)
    for name in ("block", "tokens", "after pruning", "after merging", "MACs", "of dense"):
        made.add_column(name, justify="left" if name == "block" else "right")
    for row in content["blocks"]:
        counts = (str(row[name]) for name in ("tokens", "pruned", "merged"))
        made.add_row(row["block"], *counts, *_cost(row, "macs"))
    made.add_row("all else", "", "", "", *_cost(_rest(content, "blocks"), "macs"))
    made.add_section()
    made.add_row("model", "", "", "", *_cost(content, "macs"), style="bold")
    made.add_row("by the published formula", "", "", "", *_cost(content, "published_macs"))
    return made


def _sites_table(content: dict[str, Any]) -> Table:
    made = Table(box=None, pad_edge=False)
    for name in ("site", "rank", "of", "parameters", "of dense", "MACs", "of dense"):
        made.add_column(name, justify="left" if name == "site" else "right")
    for row in content["sites"]:
        rank = "dense" if row["rank"] is None else str(row["rank"])
        made.add_row(row["site"], rank, str(row["full_rank"]), *_costs(row))
    made.add_row("all else, biases too", "", "", *_costs(_rest(content, "sites")))
    made.add_section()
    made.add_row("model", "", "", *_costs(content), style="bold")
    return made


def _rest(content: dict[str, Any], part: str) -> dict[str, Any]:
    """What of the model's costs no row of a part has."""
    rows = content[part]
    keys = [f"{kind}{unit}" for unit in ("params", "macs") for kind in ("", "dense_")]
    return {key: content[key] - sum(row.get(key, 0) for row in rows) for key in keys}


def _costs(row: dict[str, Any]) -> list[str]:
    """Both costs, with their share of the dense model's."""
    return [*_cost(row, "params"), *_cost(row, "macs")]


def _cost(row: dict[str, Any], unit: str) -> list[str]:
    cost, dense = row[unit], row[f"dense_{unit}"]
    return [f"{cost:,}", f"{cost / dense:.1%}" if dense else ""]
