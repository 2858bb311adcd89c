"""Configuration of the budget."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, PositiveFloat, model_validator

from adacomcat.checks import require
from adacomcat.config.base import Config


class BudgetConfig(Config):
    """The target of a search: give `reduction` or `absolute`, not both."""

    place: ClassVar[str] = "budget"

    unit: str = "params"
    """`params`: weights without biases, as ComCAT counts; `macs`: multiply-accumulates an image;
    `latency`: nanoseconds an image, from the table of `latency`; or a unit that the method
    declares."""
    reduction: float | None = Field(default=0.5, gt=0, lt=1)
    """Share of the dense model's cost to remove."""
    absolute: PositiveFloat | None = None
    """The cost to reach, in `unit`, counted as `adacomcat.cost` counts it."""
    latency: Mapping[str, Any] = {}
    """Table of measured times for the unit `latency`, as `adacomcat latency` writes it; checked by
    the method."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require(
            self.unit != "latency" or len(self.latency) > 0,
            "latency",
            dict(self.latency),
            "a table of measured times with unit latency: make one with `adacomcat"
            " latency --model M --output FILE`, and give it with --latency-table FILE",
        )
        both = (self.reduction, self.absolute)
        one = (self.reduction is None) != (self.absolute is None)
        require(one, "reduction", both, "this or absolute, exactly one of the two")
        return self
