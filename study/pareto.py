"""Pareto fronts."""

import moocore
import numpy as np
from numpy.typing import ArrayLike


def on_front(costs: ArrayLike) -> list[bool]:
    """Points that no other point dominates; equal points do not dominate one another.

    Args:
        costs: (points, objectives), less is better; a point with a number that is not finite is
            missing: it is not on the front and dominates no other.
    """
    points = np.asarray(costs, dtype=float)
    if len(points) == 0:
        return []
    flags = np.isfinite(points).all(axis=-1)
    if flags.any():
        flags[flags] = moocore.is_nondominated(points[flags], keep_weakly=True)
    return [bool(flag) for flag in flags]
