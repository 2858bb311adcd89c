"""Description of an exploration: space, objectives, sampler, early stopping."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from adacomcat.checks import require, require_known
from adacomcat.config.base import Config
from study.spec.objectives import METRICS


def _check_name(name: str) -> str:
    sound = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
    require(sound, "", name, "lower-case letters, digits and _, a letter first")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
"""File-name safe, without the dash that separates the parts of a trial id."""


class Dimension(Config):
    """One parameter of a space.

    Raises:
        ValueError: bounds and choices mixed up, low not below high, a choice alone or given twice,
            or one that Optuna cannot store.
    """

    place: ClassVar[str] = "space.{name}"

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
        if self.kind == "choice":
            bounds = (self.low, self.high)
            require(bounds == (None, None) and not self.log, "", bounds, "choices alone")
            scalars = all(isinstance(c, str | int | float | None) for c in self.choices)
            plain = "numbers, texts, true, false or null"
            require(scalars, "choices", self.choices, plain)
            # By equality: Optuna finds a choice by its value, and 1, 1.0 and true are equal.
            sound = len(set(self.choices)) == len(self.choices) >= 2
            require(sound, "choices", self.choices, "two or more, each once")
            return self
        require(self.setting is not None, "setting", None, "a setting, or kind: choice")
        require(not self.choices, "choices", self.choices, "low and high alone")
        for name, bound in (("low", self.low), ("high", self.high)):
            finite = bound is not None and math.isfinite(bound)
            require(finite, name, bound, "a finite number")
            whole = self.kind == "float" or bound == int(bound or 0)
            require(whole, name, bound, "a whole number")
        low, high = self.bounds
        require(low < high, "low", low, f"below high, {high}")
        require(not self.log or low > 0, "low", low, "above 0, with log")
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


class Stopping(Config):
    """Settings of early stopping; see `study.explore.pruner` for the rule.

    Raises:
        ValueError: rungs that do not ascend, or a figure out of range.
    """

    place: ClassVar[str] = "stopping"

    rungs: tuple[int, ...] = Field(min_length=1)
    """Epochs, counted over both phases, after which an arm may be stopped."""
    keep: float = Field(default=0.5, gt=0, lt=1)
    """Share of the arms of a rung, the best by rank, that always continues."""
    peers: int = Field(default=4, ge=2)
    """Number of arms, the current one included, that must reach a rung before any is stopped."""
    dominators: int = Field(default=1, ge=1)
    """Number of arms that must dominate an arm with margin before it is stopped."""
    margin: float = Field(default=0.02, ge=0)
    """Minimum lead of a dominating arm in at least one objective, as a share of the range of that
    objective over the rung."""

    @model_validator(mode="after")
    def _check(self) -> "Stopping":
        rising = all(a < b for a, b in zip((0, *self.rungs), self.rungs, strict=False))
        require(rising, "rungs", self.rungs, "epochs of 1 or more that ascend")
        return self


def early_rungs(epochs: int) -> tuple[int, ...]:
    """Three twelfths of so many epochs, five and seven; fewer rungs where these are too few."""
    return tuple(sorted({part * epochs // 12 for part in (3, 5, 7)} - {0}))


class Exploration(Config):
    """A search, by Optuna, for the settings whose trials are the best compromises.

    The arms of the experiment are its references: they run first, are never stopped, and count
    beside `samples`.

    Raises:
        ValueError: an empty space, a parameter given twice, that asks an unknown one or that
            changes nothing, an unknown objective or one given twice, a point that is none of the
            space, a figure out of range.
    """

    space: tuple[Dimension, ...] = Field(min_length=1)
    objectives: tuple[str, ...] = Field(min_length=1)
    """Names of `study.spec.objectives.METRICS`; the direction is the metric's own."""
    samples: int = Field(ge=1)
    """Arms that are suggested."""
    sampler: Literal["tpe", "nsga2"] = "tpe"
    start: int = Field(default=8, ge=0)
    """Number of quasi-random first suggestions, spread evenly over the space."""
    seed: int = 0
    """Seed of the sampler."""
    overrides: dict[str, Any] = {}
    """Settings of every suggested arm, overridden by those of the space."""
    points: dict[Name, dict[str, Any]] = {}
    """References that the space can express: name of the arm -> its parameters."""
    stopping: Stopping | None = None

    @model_validator(mode="after")
    def _check(self) -> "Exploration":
        self._check_space()
        for name in self.objectives:
            require_known(name, METRICS, "objectives")
        once = len(set(self.objectives)) == len(self.objectives)
        require(once, "objectives", self.objectives, "each objective once")
        for arm, point in self.points.items():
            self._check_point(f"points.{arm}", point)
        return self

    def _check_space(self) -> None:
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
