"""What a compressed model may cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adacomcat.checks import require


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The target of a search: give `reduction` or `absolute`, not both."""

    unit: str = "params"
    """`params`: weights without biases, as ComCAT counts; `macs`: multiply-accumulates an image;
    `latency`: nanoseconds an image, from the table of `latency`; or a unit that the method
    declares."""
    reduction: float | None = 0.5
    """Share of the dense model's cost to remove."""
    absolute: float | None = None
    """The cost to reach, in `unit`, counted as `adacomcat.cost` counts it."""
    latency: Mapping[str, Any] = field(default_factory=dict)
    """Of the unit `latency`: what was measured, as `adacomcat latency` writes it; the
    method checks it."""

    def __post_init__(self) -> None:
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
