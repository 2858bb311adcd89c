"""The one way a wrong setting is refused: the dotted field, what was got, what is allowed."""

import difflib
from collections.abc import Iterable
from typing import Any


def require(condition: bool, field: str, got: Any, allowed: str) -> None:
    """Raise unless a setting is sound.

    Args:
        condition: whether the setting is allowed.
        field: the setting's dotted name, as the user writes it (`search.lr`).
        got: the refused value.
        allowed: what would have been accepted, in words.

    Raises:
        ValueError: when `condition` is false.
    """
    if not condition:
        raise ValueError(f"{field}: got {got!r}, allowed: {allowed}")


def require_known(name: str, known: Iterable[str], field: str) -> None:
    """Raise when `name` is none of `known`; the message names the nearest valid one.

    Raises:
        ValueError: with `field`, the name, the nearest match and the whole list.
    """
    options = sorted(known)
    if name in options:
        return
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{field}: got {name!r}{hint}, allowed: {', '.join(options)}")


class NonFiniteLoss(RuntimeError):
    """The loss of a step was infinite or no number; the message names the step."""
