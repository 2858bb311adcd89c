"""`info`: ranks, parameters and multiply-accumulates of a model, site by site."""

import argparse
import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from adacomcat.cli.models import stored_model
from adacomcat.cli.request import model_options, skeleton
from adacomcat.config import ModelConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.interop.comcat import read_ranks
from adacomcat.interop.timm import input_shape
from adacomcat.lowrank.shape import model_sites, plan_of, shape_, shapes_for
from adacomcat.lowrank.space import Site


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
    if arguments.ranks is not None:
        config = ModelConfig(name=arguments.model, options=model_options(arguments))
        model, dense = skeleton(config), skeleton(config)
        plan = read_ranks(arguments.ranks, model)
        shape_(model, shapes_for(model, plan, biases=arguments.biases == "exact"))
    else:
        model, dense = stored_model(arguments)
    content = describe_model(model, dense)
    if arguments.json:
        print(json.dumps(content, indent=2))
    else:
        console.print(_table(content), highlight=False)


def describe_model(model: nn.Module, dense: nn.Module) -> dict[str, Any]:
    """Costs of a model, in all and by site.

    Args:
        model: with factorised modules in some places, or none.
        dense: the same without; on the meta device it will do.
    """
    sites, plan = model_sites(model), plan_of(model)
    totals = Totals(
        params=count_params(model),
        macs=count_macs(model, input_shape(model)),
        dense_params=count_params(dense),
        dense_macs=count_macs(dense, input_shape(dense)),
    )
    return {**vars(totals), "sites": [_site(site, plan.decisions[site.name]) for site in sites]}


def _site(site: Site, rank: int | None) -> dict[str, Any]:
    """Weights (no biases) and MACs of one site; rank None: dense."""
    return {
        "site": site.name,
        "rank": rank,
        "full_rank": site.full,
        "params": site.cost("params", rank),
        "macs": site.cost("macs", rank),
        "dense_params": site.cost("params", None),
        "dense_macs": site.cost("macs", None),
    }


def _table(content: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("site", "rank", "of", "parameters", "of dense", "MACs", "of dense"):
        table.add_column(name, justify="left" if name == "site" else "right")
    for row in content["sites"]:
        rank = "dense" if row["rank"] is None else str(row["rank"])
        table.add_row(row["site"], rank, str(row["full_rank"]), *_costs(row))
    units = ("params", "macs")
    counted = {
        f"{kind}{unit}": content[f"{kind}{unit}"]
        - sum(row[f"{kind}{unit}"] for row in content["sites"])
        for unit in units
        for kind in ("", "dense_")
    }
    table.add_row("all else, biases too", "", "", *_costs(counted))
    table.add_section()
    table.add_row("model", "", "", *_costs(content), style="bold")
    return table


def _costs(row: dict[str, Any]) -> list[str]:
    """Both costs, with their share of the dense model's."""
    cells = []
    for unit in ("params", "macs"):
        cost, dense = row[unit], row[f"dense_{unit}"]
        cells += [f"{cost:,}", f"{cost / dense:.1%}" if dense else ""]
    return cells
