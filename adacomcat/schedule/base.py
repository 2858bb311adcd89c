"""Base class for schedules."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, PrivateAttr

from adacomcat.checks import require, require_known
from adacomcat.config.base import Config


class Schedule(Config, ABC):
    """Policy that says at which epochs a search is due, and observes what the searches found.

    The engine calls `due` at the start of an epoch, and `observe` after each search. Epochs
    count from 0; a search of epoch t happens before the training of epoch t.

    A new kind derives directly from this class, sets its `kind` and implements `due`. Its
    coefficients are its fields; its memory consists of private attributes (`PrivateAttr`). The
    configuration, the state and `build_schedule` then follow.
    `adacomcat.testing.schedules.ScheduleConformance` checks the rules.
    """

    # Also in Python a quoted or boolean coefficient is a mistake.
    model_config = ConfigDict(strict=True)

    place: ClassVar[str] = "schedule"
    kind: ClassVar[str]
    """Name of the kind in configurations."""

    _last_search: int | None = PrivateAttr(default=None)

    @abstractmethod
    def due(self, epoch: int) -> bool:
        """Whether a search is due at this epoch. Has no side effects."""

    @property
    def last_search(self) -> int | None:
        """Epoch of the last search; None before the first."""
        return self._last_search

    @property
    def interval(self) -> float | None:
        """F(t), the epochs until the next search (1 or more); None where it has no meaning."""
        return None

    def observe(self, epoch: int, distance: float | None) -> None:
        """Take note of a search.

        Args:
            epoch: epoch of the search, later than that of the last one.
            distance: from the plan in force to the plan found (`Plan.distance`); None where there
                was none to compare with, as at the first search.

        Raises:
            ValueError: an epoch that is not after the last search, a negative distance or nan.
        """
        if self._last_search is not None:
            allowed = f"after the last search, at {self._last_search}"
            require(epoch > self._last_search, "schedule.observe.epoch", epoch, allowed)
        if distance is not None:
            require(distance >= 0, "schedule.observe.distance", distance, "0 or more, or None")
        self._last_search = epoch

    def config(self) -> dict[str, Any]:
        """The kind and its coefficients as JSON-able data; `build_schedule` reads it back."""
        return {"kind": self.kind, **self.to_json()}

    def state_dict(self) -> dict[str, Any]:
        """The memory of the schedule as JSON-able data, for a resume."""
        memory = {
            name.removeprefix("_"): getattr(self, name) for name in self.__private_attributes__
        }
        return {"kind": self.kind, **memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory that `state_dict` returned.

        Raises:
            ValueError: the state of another kind of schedule, or one that lacks a field or has one
                too many.
        """
        got = state.get("kind")
        require(got == self.kind, "schedule.state.kind", got, f"{self.kind!r}")
        names = [name.removeprefix("_") for name in self.__private_attributes__]
        require(set(state) == {"kind", *names}, "schedule.state", sorted(state), f"kind, {names}")
        for name in names:
            setattr(self, f"_{name}", state[name])


def schedule_kind(name: Any, field: str = "schedule.kind") -> type[Schedule]:
    """The class of a kind of schedule.

    Args:
        name: `kind` of a configuration.
        field: dotted name of that setting, for messages.

    Raises:
        ValueError: no text, or an unknown kind (the nearest valid one is named).
    """
    # Python keeps the list of subclasses: a kind is known once its module is imported.
    kinds = {kind.kind: kind for kind in Schedule.__subclasses__()}
    require(isinstance(name, str), field, name, ", ".join(sorted(kinds)))
    require_known(name, kinds, field)
    return kinds[name]


def build_schedule(config: Mapping[str, Any]) -> Schedule:
    """Make the schedule that a configuration names.

    Args:
        config: `kind` and any of its coefficients, for instance
            `{"kind": "adaptive", "growth": 2.0}`.

    Raises:
        ValueError: no kind or an unknown one, an unknown or missing coefficient, a refused value;
            the field is named as `schedule.growth`.
    """
    coefficients = {name: value for name, value in config.items() if name != "kind"}
    return schedule_kind(config.get("kind")).from_json(coefficients, "schedule")
