"""Checks of options for `timm.create_model`, before they reach timm's layers."""

import inspect
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from adacomcat.checks import require

LARGEST = 1_000_000
SIDES = MappingProxyType({"img_size": 65_536, "patch_size": 4_096})
SIZES = MappingProxyType(
    {
        "depth": 1_000,
        "num_heads": 4_096,
        "embed_dim": 65_536,
        "in_chans": 4_096,
        "num_classes": LARGEST,
    }
)
"""Options that are sizes -> the largest that is taken."""


def check_options(options: Mapping[str, Any], kinds: Iterable[type[nn.Module]]) -> None:
    """Raise where an option's value is of another kind than its default, or a size out of range.

    Args:
        options: of `timm.create_model`.
        kinds: classes of the model, whose arguments these are; others are left to timm.

    Raises:
        ValueError: names the option, its value and what is allowed.
    """
    parameters: dict[str, inspect.Parameter] = {}
    for kind in kinds:
        parameters = {**inspect.signature(kind.__init__).parameters, **parameters}
    for name, value in options.items():
        default = parameters[name].default if name in parameters else None
        field = f"model.options.{name}"
        if name in SIDES:
            sides = value if isinstance(value, list | tuple) else [value, value]
            sound = len(sides) == 2 and all(_is_int(side, SIDES[name]) for side in sides)
            allowed = f"an integer from 1 to {SIDES[name]:,}, or a pair of them"
            require(sound, field, value, allowed)
        elif name in SIZES:
            least = int(name != "num_classes")
            sound = _is_int(value, SIZES[name], least)
            require(sound, field, value, f"an integer from {least} to {SIZES[name]:,}")
        elif isinstance(default, bool):
            require(isinstance(value, bool), field, value, "true or false")
        elif isinstance(default, int):
            require(_is_int(value, LARGEST, 0), field, value, f"an integer from 0 to {LARGEST:,}")
        elif isinstance(default, float):
            sound = isinstance(value, int | float) and not isinstance(value, bool)
            sound = sound and 0 <= value < (1 if name.endswith("_rate") else math.inf)
            below = ", below 1" if name.endswith("_rate") else ""
            require(sound, field, value, f"a number of 0 or more{below}")


def _is_int(value: Any, most: int, least: int = 1) -> bool:
    return type(value) is int and least <= value <= most


def one_line(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).splitlines() or [""]
    name = "" if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: "
    return f"{name}{lines[0]}".removesuffix(": ")


def check_sides(options: Mapping[str, Any], image_size: int) -> None:
    """Raise unless sizes among the options of a model divide each other as they have to."""
    width, heads = options.get("embed_dim"), options.get("num_heads")
    if width is not None and heads is not None:
        require(
            width % heads == 0,
            "model.options.embed_dim",
            width,
            f"a multiple of model.options.num_heads ({heads})",
        )
    patch = options.get("patch_size")
    if patch is not None:
        sides = options.get("img_size", image_size)
        for side, pixels in zip(_pair(sides), _pair(patch), strict=True):
            allowed = f"a divisor of the image's {side}"
            require(side % pixels == 0, "model.options.patch_size", patch, allowed)


def _pair(size: Any) -> tuple[Any, Any]:
    first, second = size if isinstance(size, list | tuple) else (size, size)
    return first, second
