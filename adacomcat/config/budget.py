"""What a compressed model may cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from adacomcat.checks import require

Unit = Literal["params", "macs", "latency"]
COUNTED_IN: Mapping[Unit, str] = MappingProxyType(
    {"params": "params", "macs": "macs", "latency": "ns an image"}
)
"""What a number of a unit is a number of."""


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The target of a search: give `reduction` or `absolute`, not both."""

    unit: Unit = "params"
    """`params`: weights without biases, as ComCAT counts; `macs`: multiply-accumulates an image;
    `latency`: nanoseconds an image, from the table of `latency`."""
    reduction: float | None = 0.5
    """Share of the dense model's cost to remove."""
    absolute: float | None = None
    """The cost to reach, in `unit`, counted as `adacomcat.cost` counts it."""
    latency: Mapping[str, Any] = field(default_factory=dict)
    """Of the unit `latency`: what was measured, as `adacomcat latency` writes it; the
    method checks it."""

    def __post_init__(self) -> None:
        require(self.unit in COUNTED_IN, "budget.unit", self.unit, ", ".join(COUNTED_IN))
        require(
            self.unit != "latency" or len(self.latency) > 0,
            "budget.latency",
            dict(self.latency),
            "a table of measured times with budget.unit latency: make one with `adacomcat"
            " latency --model M --output FILE`, and give it with --latency-table FILE",
        )
        both = (self.reduction, self.absolute)
        require(
            (self.reduction is None) != (self.absolute is None),
            "budget.reduction, budget.absolute",
            both,
            "exactly one of the two",
        )
        if self.reduction is not None:
            require(0 < self.reduction < 1, "budget.reduction", self.reduction, "between 0 and 1")
        if self.absolute is not None:
            require(self.absolute > 0, "budget.absolute", self.absolute, "above 0")
