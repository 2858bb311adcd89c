"""Objectives of an exploration: metrics of a trace, and their means over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Metric:
    """A number that a trial has after each of its epochs.

    Attributes:
        name: of the column of `epochs.jsonl`.
        label: what tables and figures call it.
        direction: which way is better.
        total: whether it is summed over the epochs so far; else the last row has it.
    """

    name: str
    label: str
    direction: Literal["maximize", "minimize"]
    total: bool = False

    def of(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """The figure after the last of these rows."""
        if self.total:
            return float(sum(row[self.name] for row in rows))
        return float(rows[-1][self.name])


# No test accuracy: what steers a search must not be what is reported of it.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("val_acc", "validation accuracy", "maximize"),
            Metric("val_loss", "validation loss", "minimize"),
            Metric("searches", "searches", "minimize"),
            Metric("search_s", "search seconds", "minimize", total=True),
            Metric("wall_s", "wall seconds", "minimize", total=True),
            Metric("params", "params", "minimize"),
            Metric("macs", "MACs", "minimize"),
        )
    }
)


def mean_values(
    traces: Sequence[Sequence[Mapping[str, Any]]], objectives: Sequence[str]
) -> tuple[float, ...]:
    """The objectives of an arm: means over its seeds, each after its last row.

    Args:
        traces: rows of `epochs.jsonl`, one sequence a seed.
        objectives: names of `METRICS`.

    Returns:
        One value an objective, in its own direction.
    """
    return tuple(float(np.mean([METRICS[name].of(rows) for rows in traces])) for name in objectives)


def losses(values: Sequence[float], objectives: Sequence[str]) -> tuple[float, ...]:
    """The same values turned so that less is better in all of them."""
    signs = (-1.0 if METRICS[name].direction == "maximize" else 1.0 for name in objectives)
    return tuple(sign * value for sign, value in zip(signs, values, strict=True))
