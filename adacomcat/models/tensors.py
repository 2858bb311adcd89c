"""Comparison of named tensors with those that a model expects, with readable errors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from adacomcat.checks import require

SHOWN = 5
"""Keys that a message lists."""


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise unless two mappings have the same keys with the same shapes.

    Args:
        found: what was read.
        expected: what the model has; tensors on the meta device do.
        where: what was read from, for messages.

    Raises:
        ValueError: missing or unexpected keys, or a key with its shape found and expected.
    """
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    # Shapes first: the one wrong shape says more than the keys that follow from it.
    for key in expected:
        if key in found:
            shape, wanted = tuple(found[key].shape), tuple(expected[key].shape)
            require(shape == wanted, f"{where}: {key}", shape, f"shape {wanted}")
    if missing or unexpected:
        parts = [f"lacks {_listed(missing)}"] * bool(missing)
        parts += [f"has {_listed(unexpected)}, unknown to the model"] * bool(unexpected)
        raise ValueError(f"{where}: {'; '.join(parts)}")


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise where a tensor holds NaN or infinity; tensors on the meta device hold nothing.

    Args:
        tensors: by name.
        where: put before the name in the message.

    Raises:
        ValueError: names the tensor and how many of its numbers are not finite.
    """
    for name, tensor in tensors.items():
        if tensor.is_meta or not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            got = f"{count} of {tensor.numel()} numbers NaN or infinite"
            require(False, f"{where}.{name}" if where else name, got, "finite numbers")


def _listed(keys: list[str]) -> str:
    more = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f" and {more} more" if more > 0 else "")
