"""Description of an exploration: space, objectives, sampler, early stopping."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adacomcat.checks import require, require_known
from study.spec.objectives import METRICS

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""File-name safe, without the dash that separates the parts of a trial id."""


class Record(BaseModel):
    """Typed data that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Dimension(Record):
    """One parameter of a space.

    Raises:
        ValueError: bounds and choices mixed up, low not below high, a choice alone or given twice,
            or one that Optuna cannot store.
    """

    name: Name
    """Name of the parameter in Optuna."""
    setting: str | None = None
    """Dotted name of the setting it makes; None for a switch that only other dimensions ask."""
    kind: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    """Included."""
    log: bool = False
    choices: tuple[Any, ...] = ()
    """Numbers, texts, true, false or null."""
    when: dict[str, Any] = {}
    """Earlier choices that must hold (name -> choice), or this parameter does not exist."""

    @model_validator(mode="after")
    def _check(self) -> "Dimension":
        where = f"space.{self.name}"
        if self.kind == "choice":
            bounds = (self.low, self.high)
            require(bounds == (None, None) and not self.log, where, bounds, "choices alone")
            scalars = all(isinstance(c, str | int | float | None) for c in self.choices)
            plain = "numbers, texts, true, false or null"
            require(scalars, f"{where}.choices", self.choices, plain)
            # By equality: Optuna finds a choice by its value, and 1, 1.0 and true are equal.
            sound = len(set(self.choices)) == len(self.choices) >= 2
            require(sound, f"{where}.choices", self.choices, "two or more, each once")
            return self
        require(self.setting is not None, f"{where}.setting", None, "a setting, or kind: choice")
        require(not self.choices, f"{where}.choices", self.choices, "low and high alone")
        for name, bound in (("low", self.low), ("high", self.high)):
            finite = bound is not None and math.isfinite(bound)
            require(finite, f"{where}.{name}", bound, "a finite number")
            whole = self.kind == "float" or bound == int(bound or 0)
            require(whole, f"{where}.{name}", bound, "a whole number")
        low, high = self.bounds
        require(low < high, f"{where}.low", low, f"below high, {high}")
        require(not self.log or low > 0, f"{where}.low", low, "above 0, with log")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high of a number."""
        assert self.low is not None and self.high is not None, self.name
        return self.low, self.high

    def exists(self, chosen: Mapping[str, Any]) -> bool:
        """Whether this parameter exists beside the earlier ones (name -> value)."""
        return all(name in chosen and chosen[name] == choice for name, choice in self.when.items())

    def check_value(self, value: Any, field: str) -> None:
        """Raise unless the parameter can have this value.

        Raises:
            ValueError: none of the choices, out of bounds, or not of the kind.
        """
        if self.kind == "choice":
            require(value in self.choices, field, value, f"one of {self.choices}")
            return
        low, high = self.bounds
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = self.kind == "float" or (number and value == int(value))
        word = "a number" if self.kind == "float" else "a whole number"
        inside = number and whole and low <= value <= high
        require(inside, field, value, f"{word} from {low:g} to {high:g}")


class Stopping(Record):
    """Settings of early stopping; see `study.explore.pruner` for the rule.

    Raises:
        ValueError: rungs that do not ascend, or a figure out of range.
    """

    rungs: tuple[int, ...] = Field(min_length=1)
    """Epochs, counted over both phases, after which an arm may be stopped."""
    keep: float = 0.5
    """Share of the arms of a rung, the best by rank, that always goes on."""
    peers: int = 4
    """Nobody is stopped at a rung that fewer arms have reached, the asking one included."""
    dominators: int = 1
    """Only who is dominated with margin by this many arms is stopped."""
    margin: float = 0.02
    """By more than this, as a share of what the arms of the rung span in an objective, a dominating
    arm must be better in at least one of them."""

    @model_validator(mode="after")
    def _check(self) -> "Stopping":
        rising = all(a < b for a, b in zip((0, *self.rungs), self.rungs, strict=False))
        require(rising, "stopping.rungs", self.rungs, "epochs of 1 or more that ascend")
        require(0 < self.keep < 1, "stopping.keep", self.keep, "between 0 and 1")
        require(self.peers >= 2, "stopping.peers", self.peers, "2 or more")
        require(self.dominators >= 1, "stopping.dominators", self.dominators, "1 or more")
        require(self.margin >= 0, "stopping.margin", self.margin, "0 or more")
        return self


def early_rungs(epochs: int) -> tuple[int, ...]:
    """Three twelfths of so many epochs, five and seven; fewer rungs where these are too few."""
    return tuple(sorted({part * epochs // 12 for part in (3, 5, 7)} - {0}))


class Exploration(Record):
    """A search, by Optuna, for the settings whose trials are the best compromises.

    The arms of the experiment are its references: they run first, are never stopped, and count
    beside `samples`.

    Raises:
        ValueError: an empty space, a parameter given twice, that asks an unknown one or that
            changes nothing, an unknown objective or one given twice, a point that is none of the
            space, a figure out of range.
    """

    space: tuple[Dimension, ...]
    objectives: tuple[str, ...]
    """Names of `study.spec.objectives.METRICS`; the direction is the metric's own."""
    samples: int
    """Arms that are suggested."""
    sampler: Literal["tpe", "nsga2"] = "tpe"
    start: int = 8
    """Number of quasi-random first suggestions, spread evenly over the space."""
    seed: int = 0
    """Seed of the sampler."""
    overrides: dict[str, Any] = {}
    """Settings of every suggested arm, below what the space makes."""
    points: dict[Name, dict[str, Any]] = {}
    """References that the space can express: name of the arm -> its parameters."""
    stopping: Stopping | None = None

    @model_validator(mode="after")
    def _check(self) -> "Exploration":
        self._check_space()
        require(bool(self.objectives), "objectives", self.objectives, "one or more")
        for name in self.objectives:
            require_known(name, METRICS, "objectives")
        once = len(set(self.objectives)) == len(self.objectives)
        require(once, "objectives", self.objectives, "each objective once")
        require(self.samples >= 1, "samples", self.samples, "1 or more")
        require(self.start >= 0, "start", self.start, "0 or more")
        for arm, point in self.points.items():
            self._check_point(f"points.{arm}", point)
        return self

    def _check_space(self) -> None:
        require(bool(self.space), "space", self.space, "one parameter or more")
        seen: dict[str, Dimension] = {}
        asked = {name for dimension in self.space for name in dimension.when}
        for dimension in self.space:
            where = f"space.{dimension.name}"
            require(dimension.name not in seen, "space", dimension.name, "each parameter once")
            for name, choice in dimension.when.items():
                require_known(name, seen, f"{where}.when")
                seen[name].check_value(choice, f"{where}.when.{name}")
                discrete = seen[name].kind == "choice"
                require(discrete, f"{where}.when.{name}", choice, "a parameter of kind choice")
            used = dimension.setting is not None or dimension.name in asked
            allowed = "a setting, or another parameter that exists only at one of its choices"
            require(used, f"{where}.setting", None, allowed)
            seen[dimension.name] = dimension

    def _check_point(self, field: str, point: Mapping[str, Any]) -> None:
        """A point has every parameter that exists there, or Optuna would make up the rest."""
        for name in point:
            require_known(name, [dimension.name for dimension in self.space], field)
        chosen: dict[str, Any] = {}
        for dimension in self.space:
            name = dimension.name
            if dimension.exists(chosen):
                require(name in point, f"{field}.{name}", "nothing", "this point has it")
                dimension.check_value(point[name], f"{field}.{name}")
                chosen[name] = point[name]
            else:
                given = point.get(name)
                require(name not in point, f"{field}.{name}", given, f"only with {dimension.when}")
