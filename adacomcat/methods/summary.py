"""Summaries of a compressed model, for `adacomcat info` and for model cards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

UNITS: Mapping[str, str] = MappingProxyType({"params": "parameters", "macs": "MACs"})
"""Unit -> title of its column."""
Tokens = Mapping[str, tuple[int, int]]
"""Block -> tokens that enter its attention, and tokens that enter its MLP; of blocks where a method
changes how many there are."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Costs of a model, part by part, as one method divides it.

    Attributes:
        key: of the rows in JSON, such as `sites`.
        columns: title -> key in the rows, without the costs; the first one names the row.
        rows: JSON-able; each has costs in `units`, and those of the dense model as `dense_UNIT`.
        units: `params` (weights without biases), `macs` (an image).
        rest: name of what no row has.
        totals: further costs of the whole model, JSON-able, by name and as `dense_NAME`.
        total_titles: title -> name among the totals.
        changed: what was done to the model, in words for a model card; empty where it is dense.
        tag: of such models on the hub.
        note: about the columns.
    """

    key: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    units: Sequence[str]
    rest: str
    totals: Mapping[str, Any] = field(default_factory=dict)
    total_titles: Mapping[str, str] = field(default_factory=dict)
    changed: str = ""
    tag: str = ""
    note: str = ""

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """The row's entries of the columns, as text."""
        values = (row[key] for key in self.columns.values())
        return ["dense" if value is None else str(value) for value in values]
