"""Arms as marks over what they cost, with intervals, direct labels and the Pareto front."""

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.sparse.csgraph import connected_components

from analysis import arms, labels, rootscale, style

Array = NDArray[np.float64]
Groups = NDArray[np.int64]

MARK_PT = 13.0
"""What a mark takes with some air around it; marks that are nearer than that are moved apart."""

BAR_PT = 7.0
"""What the upright bar of an interval takes, where marks are at different heights."""

RING_PT = 5.0
"""By how much the ring around an arm on the front is wider than its mark."""

MOVED = "Marks that would hide one another are moved apart; a bracket says where they truly are."


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
    ticks: Sequence[int] | None = (0, *rootscale.ROUND)


def new_axes(table: pd.DataFrame, note: str) -> list[Axes]:
    """The axes for `draw`: one panel, or one a budget; higher with more arms to be labeled."""
    budgets = _budgets(table)
    most = max(int((of_budget["seeds"] > 0).sum()) for _, of_budget in budgets)
    if len(budgets) == 1:
        height = 2.86 + 0.2 * max(most - 8, 0)
        made = style.new_figure(1, 1, height=height, left=0.75, right=0.63, note=note)
        return list(made[0])
    rows = -(-len(budgets) // 2)
    height = rows * (1.35 + 0.15 * max(most - 3, 0)) + (rows - 1) * 0.55
    made = style.new_figure(
        rows,
        2,
        width=7.4,
        height=height,
        left=0.75,
        right=0.63,
        across=1.25,
        down=0.55,
        top=0.65,
        below=0.75,
        note=note,
    )
    for ax in made.ravel()[len(budgets) :]:
        ax.remove()
    return list(made.ravel()[: len(budgets)])


def _budgets(table: pd.DataFrame) -> list[tuple[float | None, pd.DataFrame]]:
    """The arms of each reduction (%); all together, with None, in a study of one budget."""
    if table["reduction"].isna().all():
        return [(None, table)]
    # An arm without a budget of its own stands in every panel.
    return [
        (float(share), table[table["reduction"].isna() | (table["reduction"] == share)])
        for share in sorted(table["reduction"].dropna().unique())
    ]


def said(table: pd.DataFrame) -> list[str]:
    """What a note has to say of the marks and of the front."""
    moved = MOVED if (table["seeds"] > 0).sum() > 1 else ""
    if len(_budgets(table)) > 1:
        return ["Rings and stepped lines: Pareto front of the means of each budget.", moved]
    front = table.loc[table["on_front"], "label"]
    drawn = "rings, stepped line" if len(front) > 1 else "ring"
    return [f"Pareto front of the means ({drawn}): {'; '.join(front)}.", moved]


def draw(panels: Sequence[Axes], table: pd.DataFrame, across: Across, title: str) -> None:
    """Draw the arms of a table, which has the columns of `summary.arms`, and `on_front`.

    The axes must be those of `new_axes`. Arms without a finished trial are not drawn. Marks of arms
    that would hide one another are moved apart sideways.
    """
    budgets = _budgets(table)
    for ax, (share, of_budget) in zip(panels, budgets, strict=True):
        shown = percent(of_budget)
        if share is not None:
            shown["label"] = shown["label"].map(arms.without_budget)
            ax.set_title(f"reduction {share:.0f} %", fontsize="medium")
        _draw_panel(ax, shown, across, percent(table))
    if len(panels) == 1:
        style.title(panels[0], title)
        return
    for index, ax in enumerate(panels):
        name = textwrap.fill(across.name, 34)
        ax.set_xlabel(name if index >= len(panels) - 2 else "")
        ax.set_ylabel(ax.get_ylabel() if index % 2 == 0 else "")
    figure = panels[0].figure
    assert isinstance(figure, Figure)
    style.headline(figure, title)


def _draw_panel(ax: Axes, shown: pd.DataFrame, across: Across, every: pd.DataFrame) -> None:
    """Draw the arms of one panel; `every` has those of all panels, which share the x axis."""
    dense = 100 * float(shown["dense_test_acc"].mean())
    if shown.empty:
        ax.text(0.5, 0.5, "no finished trial", transform=ax.transAxes, ha="center")
        return
    set_axes(ax, shown, across, dense, every)
    draw_dense(ax, dense)
    moves, groups = shifts(ax, shown, across)
    steps = _draw_front(ax, shown, across, moves)
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


def set_axes(
    ax: Axes,
    shown: pd.DataFrame,
    across: Across,
    dense: float,
    every: pd.DataFrame | None = None,
) -> None:
    """Scales, limits, ticks and names.

    Args:
        ax: an empty one.
        shown: of `percent`.
        across: what stands on the x axis.
        dense: test accuracy of the dense model, %; nan where it is not known.
        every: of `percent`: all arms that have this x axis; None for those shown.
    """
    every = shown if every is None else every
    least, most = (float(every[f"{across.column}_{end}"].agg(end)) for end in ("min", "max"))
    if across.ticks is not None:
        rootscale.set_root_scale(ax, least, most, across.ticks)
    else:
        air = 0.12 * max(most - least, 0.02 * most, 1.0)
        ax.set_xlim(least - air, most + air)
        ax.xaxis.set_major_formatter(EngFormatter())
    levels = [*shown["test_acc_low"], *shown["test_acc_high"], dense]
    low, high = float(np.nanmin(levels)), float(np.nanmax(levels))
    # Many labels need room above and below.
    labeled = shown.get("series", shown["arm"]).nunique()
    margin = (0.15 + 0.03 * max(labeled - 8, 0)) * max(high - low, 1.0)
    # An interval may reach beyond 100 %, an axis need not.
    ax.set_ylim(low - margin, min(high + margin, 100 + 0.3 * margin))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set_xlabel(across.name)
    ax.set_ylabel("test accuracy (%)")


def draw_dense(ax: Axes, dense: float) -> None:
    """A line at the accuracy (%) of the dense model, with its name; nothing for nan."""
    if np.isnan(dense):
        return
    ax.axhline(dense, color=style.QUIET, linestyle=(0, (5, 3)), linewidth=1.0, zorder=1)
    ax.annotate(
        f"dense\n{dense:.1f} %",
        (1, dense),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=style.QUIET,
    )


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
            places,
            [0.02, 0.02],
            transform=ax.transAxes,
            color=style.QUIET,
            linewidth=1.0,
            marker=2,
            markersize=3,
            gid=f"moved:{group}",
        )
        ax.annotate(
            f"truly at {' to '.join(ends)}",
            (places.mean(), 0.02),
            xycoords="axes fraction",
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="small",
            color=style.QUIET,
        )
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
        [x],
        [y],
        transform=move,
        gid=f"mark:{arm['arm']}",
        zorder=3,
        linestyle="none",
        marker=look.marker,
        markersize=look.size,
        markerfacecolor="white" if hollow else look.color,
        markeredgecolor=style.INK,
        markeredgewidth=0.8,
    )
    if arm.get("on_front", False):
        ax.plot(
            [x],
            [y],
            transform=move,
            gid=f"ring:{arm['arm']}",
            zorder=2.5,
            linestyle="none",
            marker="o",
            markersize=look.size + RING_PT,
            markerfacecolor="white",
            markeredgecolor=style.INK,
            markeredgewidth=1.1,
        )


def _draw_front(ax: Axes, shown: pd.DataFrame, across: Across, moves: Array) -> Array:
    """Join the marks on the front by steps; the boxes of the steps, in pixels."""
    at = ax.transData.transform(shown[[across.column, "test_acc"]].to_numpy(float))
    moved = at + np.column_stack([moves, np.zeros_like(moves)])
    points = moved[shown["on_front"].to_numpy(bool)]
    points = points[np.lexsort(points.T[::-1])]
    path = np.empty((max(2 * len(points) - 1, 0), 2))
    path[::2] = points
    path[1::2] = np.column_stack([points[1:, 0], points[:-1, 1]])
    line = ax.transData.inverted().transform(path)
    ax.plot(*line.T, color=style.QUIET, linewidth=1.6, zorder=1.5, gid="front")
    low, high = np.minimum(path[:-1], path[1:]), np.maximum(path[:-1], path[1:])
    pixel = ax.figure.dpi / 72
    boxes: Array = np.hstack([low - pixel, high + pixel])
    return boxes


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
    rings = RING_PT * shown.get("on_front", pd.Series(False, shown.index)).to_numpy(float)
    sizes = np.array([style.look(arm).size for arm in shown["arm"]]) + rings
    radii = sizes[:, None] * pixel / 2
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
