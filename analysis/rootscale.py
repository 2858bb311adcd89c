"""An x axis of counts or seconds on a square-root scale, with ticks that have room."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

ROUND = tuple(factor * 10**power for power in range(13) for factor in (1, 2, 5))
"""Round numbers, for ticks."""


def set_root_scale(ax: Axes, least: float, most: float, candidates: Sequence[int]) -> None:
    """Scale, limits and ticks of the x axis.

    Args:
        ax: with its final place in the figure.
        least: value that must be in sight.
        most: value that must be in sight.
        candidates: for the ticks, from 0; whole numbers are taken where too few of them fit.
    """
    # Square roots spread the low counts, where schedules differ, and unlike logs know zero.
    ax.set_xscale("function", functions=(_root, _square))
    low, high = least**0.5, max(most, 1.0) ** 0.5
    # Zero is shown unless all arms are far from it and near one another.
    low = min(low, high - 0.5) if least > most / 2 and high > 1 else 0.0
    air = 0.08 * (high - low)
    ax.set_xlim(_square(low - air), _square(high + air))
    ticks = _ticks(ax, candidates)
    if len(ticks) < 3:
        ticks = _ticks(ax, range(int(max(ax.get_xlim()[0], 0)), int(ax.get_xlim()[1]) + 1))
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()


def _root(counts: Any) -> Any:
    return np.sign(counts) * np.sqrt(np.abs(counts))


def _square(roots: Any) -> Any:
    return np.sign(roots) * np.square(roots)


def _ticks(ax: Axes, candidates: Sequence[int]) -> list[int]:
    """The candidates that lie in the axes, without those too close to the one before."""
    kept: list[int] = []
    last = -np.inf
    for count in candidates:
        at = float(ax.transData.transform((count, 0))[0])
        # Wide numbers need more room.
        room = 13 + 5 * len(f"{count:,}") + 2
        if ax.get_xlim()[0] <= count <= ax.get_xlim()[1] and at - last >= room * ax.figure.dpi / 72:
            kept.append(count)
            last = at
    return kept
