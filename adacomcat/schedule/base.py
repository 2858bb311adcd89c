"""Base class for schedules."""

import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adacomcat.checks import require, require_known


@dataclass
class Schedule(ABC):
    """Says at which epochs a search is due, and learns what the searches found.

    The engine calls `due` at the start of an epoch, and `observe` after each search. Epochs
    count from 0; a search of epoch t happens before the training of epoch t.

    A new kind is a dataclass that derives directly from this one, names its `kind` and gives `due`.
    Its coefficients are its arguments, kept under their names; what it remembers are fields with
    `init=False`. Then `config`, the state and `build_schedule` need nothing more.
    `adacomcat.testing.schedules.ScheduleConformance` says whether it keeps the rules.
    """

    kind: ClassVar[str]
    """The name that configurations use."""

    last_search: int | None = field(init=False, default=None)
    """Epoch of the last search; None before the first."""

    @abstractmethod
    def due(self, epoch: int) -> bool:
        """Whether a search is due at this epoch. Has no side effects."""

    @property
    def interval(self) -> float | None:
        """F(t), the epochs until the next search (1 or more); None where it has no meaning."""
        return None

    def observe(self, epoch: int, distance: float | None) -> None:
        """Learn from a search.

        Args:
            epoch: when the search ran; later than the last one.
            distance: from the plan in force to the plan found (`Plan.distance`); None where there
                was none to compare with, as at the first search.

        Raises:
            ValueError: an epoch that is not after the last search, a negative distance or nan.
        """
        if self.last_search is not None:
            allowed = f"after the last search, at {self.last_search}"
            require(epoch > self.last_search, "schedule.observe.epoch", epoch, allowed)
        if distance is not None:
            require(distance >= 0, "schedule.observe.distance", distance, "0 or more, or None")
        self.last_search = epoch

    def config(self) -> dict[str, Any]:
        """The kind and its coefficients as JSON-able data; `build_schedule` reads it back."""
        values = {name: getattr(self, name) for name in coefficients(type(self))}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {"kind": self.kind, **values, **lists}

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs beside the configuration, as JSON-able data."""
        return {"kind": self.kind} | {name: getattr(self, name) for name in _memory(type(self))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave.

        Raises:
            ValueError: the state of another kind of schedule, or one that lacks a field or has one
                too many.
        """
        got = state.get("kind")
        require(got == self.kind, "schedule.state.kind", got, f"{self.kind!r}")
        names = _memory(type(self))
        require(set(state) == {"kind", *names}, "schedule.state", sorted(state), f"kind, {names}")
        for name in names:
            setattr(self, name, state[name])


def build_schedule(config: Mapping[str, Any]) -> Schedule:
    """Make the schedule that a configuration names.

    Args:
        config: `kind` and any of its coefficients, for instance
            `{"kind": "adaptive", "growth": 2.0}`.

    Raises:
        ValueError: no kind or an unknown one, an unknown or missing coefficient, a refused value;
            the field is named as `schedule.growth`.
    """
    # Python keeps the list of subclasses: a kind is known once its module is imported.
    kinds = {kind.kind: kind for kind in Schedule.__subclasses__()}
    chosen: Any = config.get("kind")
    require(isinstance(chosen, str), "schedule.kind", chosen, ", ".join(sorted(kinds)))
    require_known(chosen, kinds, "schedule.kind")
    kind = kinds[chosen]
    known = coefficients(kind)
    values = {name: value for name, value in config.items() if name != "kind"}
    for name in values:
        require(bool(known), f"schedule.{name}", values[name], f"{kind.kind} has no coefficients")
        require_known(name, known, f"schedule.{name}")
    for name, required in known.items():
        given = name in values or not required
        require(given, f"schedule.{name}", "nothing", f"{kind.kind} needs it")
    return kind(**values)


def coefficients(kind: type[Schedule]) -> dict[str, bool]:
    """The names of a kind's coefficients, each with whether it must be given."""
    arguments = inspect.signature(kind).parameters
    return {name: a.default is inspect.Parameter.empty for name, a in arguments.items()}


def require_whole(value: Any, least: int, name: str) -> None:
    """Raise unless a coefficient is an integer of `least` or more; a bool is none."""
    sound = type(value) is int and value >= least
    require(sound, f"schedule.{name}", value, f"an integer of {least} or more")


def is_number(value: Any) -> bool:
    """Whether a coefficient is a finite number; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _memory(kind: type[Schedule]) -> list[str]:
    return [f.name for f in dataclasses.fields(kind) if not f.init]
