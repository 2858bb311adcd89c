"""Arms as marks over what they cost, with intervals, direct labels and the Pareto front."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.sparse.csgraph import connected_components

from analysis import labels, style

Array = NDArray[np.float64]
Groups = NDArray[np.int64]

MARK_PT = 13.0
"""What a mark takes with some air around it; marks that are nearer than that are moved apart."""

BAR_PT = 7.0
"""What the upright bar of an interval takes, where marks are at different heights."""

MOVED = "Marks that would hide one another are moved apart; a bracket says where they truly are."

ROUND = tuple(factor * 10**power for power in range(13) for factor in (1, 2, 5))


@dataclass(frozen=True)
class Across:
    """What stands on the x axis.

    Attributes:
        column: of the table; its range over the seeds is in `COLUMN_min` and `COLUMN_max`.
        name: of the axis, with the unit.
        ticks: candidates for the ticks of a square-root scale, from 0; None for a linear scale.
    """

    column: str
    name: str
    ticks: Sequence[int] | None = (0, *ROUND)


def new_axes(table: pd.DataFrame, note: str) -> Axes:
    """The axes for `draw`, the higher the more arms there are to be labelled."""
    arms = int((table["seeds"] > 0).sum())
    height = 2.86 + 0.2 * max(arms - 8, 0)
    made = style.new_figure(1, 1, height=height, left=0.75, right=0.63, note=note)
    ax: Axes = made[0, 0]
    return ax


def said(table: pd.DataFrame) -> list[str]:
    """What a note has to say of the marks and of the front."""
    if table["reduction"].notna().any():
        return ["Stepped lines: Pareto front of the means, budget by budget.", MOVED]
    front = table.loc[table["on_front"], "label"]
    drawn = " (stepped line)" if len(front) > 1 else ""
    return [f"Pareto front of the means{drawn}: {'; '.join(front)}.", MOVED]


def draw(ax: Axes, table: pd.DataFrame, across: Across) -> None:
    """Draw the arms of a table, which has the columns of `summary.arms`, and `on_front`.

    The axes must have their final place in the figure. Arms without a finished trial are not drawn.
    Marks of arms that would hide one another are moved apart sideways.
    """
    shown, dense = percent(table), 100 * float(table["dense_test_acc"].mean())
    set_axes(ax, shown, across, dense)
    draw_dense(ax, dense)
    moves, groups = shifts(ax, shown, across)
    steps = _draw_fronts(ax, shown, across, moves)
    said = draw_moves(ax, shown, across, moves, groups)
    for (_, arm), move in zip(shown.iterrows(), moves, strict=True):
        draw_mark(ax, arm, across, move)
    around = scene(ax, shown, across, moves, dense)
    around = dataclasses.replace(around, lines=np.vstack([around.lines, steps, said]))
    labels.annotate(ax, list(shown["label"]), around)


def percent(table: pd.DataFrame) -> pd.DataFrame:
    """The arms that have a mean, accuracies in %; the mean stands for the ends of no interval."""
    shown = table[table["seeds"] > 0].reset_index(drop=True)
    means = shown["test_acc"]
    for column in ("test_acc", "test_acc_low", "test_acc_high"):
        shown[column] = 100 * shown[column].fillna(means)
    return shown


def set_axes(ax: Axes, shown: pd.DataFrame, across: Across, dense: float) -> None:
    """Scales, limits, ticks and names.

    Args:
        ax: an empty one.
        shown: of `percent`.
        across: what stands on the x axis.
        dense: test accuracy of the dense model, %; nan where it is not known.
    """
    least, most = (float(shown[f"{across.column}_{end}"].agg(end)) for end in ("min", "max"))
    if across.ticks is not None:
        _set_root_scale(ax, least, most, across.ticks)
    else:
        air = 0.12 * max(most - least, 0.02 * most, 1.0)
        ax.set_xlim(least - air, most + air)
        ax.xaxis.set_major_formatter(EngFormatter())
    levels = [*shown["test_acc_low"], *shown["test_acc_high"], dense]
    low, high = float(np.nanmin(levels)), float(np.nanmax(levels))
    # Many labels need room above and below.
    labelled = shown.get("series", shown["arm"]).nunique()
    margin = (0.15 + 0.03 * max(labelled - 8, 0)) * max(high - low, 1.0)
    # An interval may reach beyond 100 %, an axis need not.
    ax.set_ylim(low - margin, min(high + margin, 100 + 0.3 * margin))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set_xlabel(across.name)
    ax.set_ylabel("test accuracy (%)")


def _set_root_scale(ax: Axes, least: float, most: float, candidates: Sequence[int]) -> None:
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


def draw_dense(ax: Axes, dense: float) -> None:
    """A line at the accuracy (%) of the dense model, with its name; nothing for nan."""
    if np.isnan(dense):
        return
    ax.axhline(dense, color=style.QUIET, linestyle=(0, (5, 3)), linewidth=1.0, zorder=1)
    ax.annotate(
        f"dense\n{dense:.1f} %", (1, dense), xycoords=("axes fraction", "data"),
        xytext=(4, 0), textcoords="offset points", va="center", color=style.QUIET,
    )  # fmt: skip


def shifts(
    ax: Axes, shown: pd.DataFrame, across: Across, *, bars: bool = True
) -> tuple[Array, Groups]:
    """How far each mark is moved sideways, so that none hides another, and which moved together.

    Marks that would meet are set `MARK_PT` apart, and those of which only the intervals would,
    `BAR_PT`, moving little; all keep their order.

    Args:
        ax: with its final scales and limits.
        shown: of `percent`.
        across: what stands on the x axis.
        bars: whether intervals are kept from one another, too.

    Returns:
        The move of each mark, in pixels, and the number of the group in which it moved.
    """
    point = ax.figure.dpi / 72
    at, low, high = (
        ax.transData.transform(shown[[across.column, level]].to_numpy(float))
        for level in ("test_acc", "test_acc_low", "test_acc_high")
    )
    x, y = at.T
    bottom, top = np.minimum(low[:, 1], y) - 3 * point, np.maximum(high[:, 1], y) + 3 * point
    beside = (bottom[:, None] < top) & (bottom < top[:, None])
    needed = BAR_PT * point * beside * bars
    needed[np.abs(y[:, None] - y) < MARK_PT * point] = MARK_PT * point
    frame, air = ax.get_window_extent(), MARK_PT / 2 * point
    groups: Groups = np.arange(len(x))
    while True:
        moved = x.copy()
        for group in np.unique(groups):
            some = np.flatnonzero(groups == group)
            if len(some) > 1:
                ends = frame.x0 + air, frame.x1 - air
                moved[some] = _apart(x[some], needed[np.ix_(some, some)], ends)
        apart = moved[:, None] - moved
        # A hair of tolerance: to stand exactly as far apart as needed is a matter of rounding.
        meeting = np.abs(apart) < 0.99 * needed
        swapped = (apart > 0) & (x[:, None] < x)
        joined = meeting | swapped | (groups[:, None] == groups)
        count, merged = connected_components(joined, directed=False)
        if count == len(np.unique(groups)):
            return moved - x, groups
        groups = merged


def _apart(at: Array, needed: Array, ends: tuple[float, float]) -> Array:
    """Places near to those given, in the same order, as far apart as needed, between two ends.

    Args:
        at: n places.
        needed: between each two of them, (n, n).
        ends: the first and the last place there is.
    """
    order = np.argsort(at, kind="stable")
    needed = needed[np.ix_(order, order)]
    steps = np.zeros(len(at))
    for index in range(1, len(at)):
        steps[index] = (steps[:index] + needed[:index, index]).max()
    # With its steps taken off, what must keep a distance must only keep its order.
    ordered = isotonic_regression(at[order] - steps).x
    places = np.empty(len(at))
    places[order] = np.clip(ordered, ends[0], max(ends[0], ends[1] - steps[-1])) + steps
    return places


def draw_moves(
    ax: Axes, shown: pd.DataFrame, across: Across, moves: Array, groups: Groups
) -> Array:
    """Say below each group of moved marks where they truly are; the boxes of that, in pixels.

    Args:
        ax: with its final scales and limits.
        shown: of `percent`.
        across: what stands on the x axis.
        moves: of `shifts`.
        groups: of `shifts`.
    """
    at = ax.transData.transform(shown[[across.column, "test_acc"]].to_numpy(float))[:, 0]
    truly, point = shown[across.column].to_numpy(float), ax.figure.dpi / 72
    frame, boxes = ax.get_window_extent(), [np.empty((0, 4))]
    for group in np.unique(groups):
        some = groups == group
        if np.abs(moves[some]).max() < MARK_PT / 2 * point:
            continue
        left, right = (at + moves)[some].min(), (at + moves)[some].max()
        ends = list(
            dict.fromkeys(_short(value) for value in (truly[some].min(), truly[some].max()))
        )
        places = (np.array([left, right]) - frame.x0) / frame.width
        ax.plot(
            places, [0.02, 0.02], transform=ax.transAxes, color=style.QUIET, linewidth=1.0,
            marker=2, markersize=3, gid=f"moved:{group}",
        )  # fmt: skip
        ax.annotate(
            f"truly at {' to '.join(ends)}", (places.mean(), 0.02), xycoords="axes fraction",
            xytext=(0, 3), textcoords="offset points", ha="center", va="bottom",
            fontsize="small", color=style.QUIET,
        )  # fmt: skip
        half = max(right - left, (40 + 5 * len(" to ".join(ends))) * point) / 2
        middle, top = (left + right) / 2, frame.y0 + 0.02 * frame.height + 13 * point
        boxes.append(np.array([[middle - half, frame.y0, middle + half, top]]))
    return np.vstack(boxes)


def _short(value: float) -> str:
    """A number in three digits, as the axes write it: 7, 5.4, 56.2 k."""
    return EngFormatter(sep=" ")(float(f"{value:.3g}"))


def draw_mark(
    ax: Axes, arm: pd.Series, across: Across, shift: float = 0.0, *, hollow: bool = False
) -> None:
    """A marker with its bars: upright the interval, level the range over the seeds."""
    look = style.look(arm["arm"])
    inches = shift / ax.figure.dpi
    move = ax.transData + ScaledTranslation(inches, 0, ax.figure.dpi_scale_trans)
    x, y = arm[across.column], arm["test_acc"]
    bars: dict[str, Any] = {"transform": move, "zorder": 2}
    spread = arm[f"{across.column}_min"], arm[f"{across.column}_max"]
    ax.plot(spread, [y, y], color=style.QUIET, linewidth=0.8, **bars)
    interval = arm["test_acc_low"], arm["test_acc_high"]
    ax.plot([x, x], interval, color=style.INK, linewidth=1.0, **bars)
    ax.plot(
        [x], [y], transform=move, gid=f"mark:{arm['arm']}", zorder=3, linestyle="none",
        marker=look.marker, markersize=look.size,
        markerfacecolor="white" if hollow else look.colour,
        markeredgecolor=style.INK, markeredgewidth=0.8,
    )  # fmt: skip


def _draw_fronts(ax: Axes, shown: pd.DataFrame, across: Across, moves: Array) -> Array:
    """Join the marks on the front of each budget by steps; the boxes of the steps, in pixels."""
    at = ax.transData.transform(shown[[across.column, "test_acc"]].to_numpy(float))
    moved = at + np.column_stack([moves, np.zeros_like(moves)])
    pixel, boxes = ax.figure.dpi / 72, [np.empty((0, 4))]
    for budget in shown["reduction"].unique():
        of_budget = shown["reduction"].isna() if np.isnan(budget) else shown["reduction"] == budget
        points = moved[(of_budget & shown["on_front"]).to_numpy(bool)]
        points = points[np.lexsort(points.T[::-1])]
        path = np.empty((max(2 * len(points) - 1, 0), 2))
        path[::2] = points
        path[1::2] = np.column_stack([points[1:, 0], points[:-1, 1]])
        line = ax.transData.inverted().transform(path)
        ax.plot(*line.T, color=style.QUIET, linewidth=1.6, zorder=1.5, gid="front")
        low, high = np.minimum(path[:-1], path[1:]), np.maximum(path[:-1], path[1:])
        boxes.append(np.hstack([low - pixel, high + pixel]))
    return np.vstack(boxes)


def scene(
    ax: Axes, shown: pd.DataFrame, across: Across, moves: Array, dense: float
) -> labels.Scene:
    """What the labels keep clear of: marks, intervals and the line of the dense model."""
    pixel = ax.figure.dpi / 72

    def at(x: str, y: str) -> Array:
        points = ax.transData.transform(shown[[x, y]].to_numpy(float))
        moved: Array = points + np.column_stack([moves, np.zeros_like(moves)])
        return moved

    x = across.column
    anchors = at(x, "test_acc")
    radii = np.array([[style.look(arm).size * pixel / 2] for arm in shown["arm"]])
    bars = [
        (at(x, "test_acc_low"), at(x, "test_acc_high")),
        (at(f"{x}_min", "test_acc"), at(f"{x}_max", "test_acc")),
    ]
    frame = ax.get_window_extent()
    lines = [np.hstack([low - pixel, high + pixel]) for low, high in bars]
    if not np.isnan(dense):
        level = float(ax.transData.transform((ax.get_xlim()[0], dense))[1])
        lines.append(np.array([[frame.x0, level - pixel, frame.x1, level + pixel]]))
    return labels.Scene(
        anchors=anchors,
        marks=np.hstack([anchors - radii, anchors + radii]),
        lines=np.vstack(lines),
        area=frame.extents,
        gap=3 * pixel,
    )
