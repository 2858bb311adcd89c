"""One-line errors for invalid settings: the dotted field, the value, what is allowed."""

import difflib
from collections.abc import Iterable
from typing import Any


class Refusal(ValueError):
    """A wrong setting, in one line.

    Attributes:
        field: dotted name of the setting.
        reason: what was got and what is allowed.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field, self.reason = field, reason

    def __reduce__(self) -> tuple[Any, ...]:
        # It travels between processes, and exceptions are pickled by `args`, which is one text.
        return type(self), (self.field, self.reason)

    def below(self, path: str) -> "Refusal":
        """The same refusal of a setting that lies at a path."""
        return Refusal(".".join(part for part in (path, self.field) if part), self.reason)


def require(condition: bool, field: str, got: Any, allowed: str) -> None:
    """Raise unless a setting is sound.

    Args:
        condition: whether the setting is allowed.
        field: the setting's dotted name, as the user writes it (`search.lr`).
        got: the refused value.
        allowed: what would have been accepted, in words.

    Raises:
        Refusal: when `condition` is false.
    """
    if not condition:
        raise Refusal(field, f"got {got!r}, allowed: {allowed}")


def require_known(name: str, known: Iterable[str], field: str) -> None:
    """Raise when `name` is none of `known`; the message names the nearest valid one.

    Raises:
        Refusal: with `field`, the name, the nearest match and the whole list.
    """
    options = sorted(known)
    if name in options:
        return
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise Refusal(field, f"got {name!r}{hint}, allowed: {', '.join(options) or 'nothing'}")


class NonFiniteLoss(RuntimeError):
    """The loss of a step was infinite or no number; the message names the step."""
