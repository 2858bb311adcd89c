"""Scatter plots of arms: test accuracy against a cost, with intervals and Pareto fronts."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from analysis import arms, style

ASIDE = 0.03
"""Distance between marks of equal values, as a share of the x axis."""

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


def draw_budgets(figure: Figure, table: pd.DataFrame, cost: str, name: str) -> None:
    """Draw accuracy over a cost on a square-root scale, a panel per budget, with Pareto fronts.

    Args:
        figure: an empty one.
        table: with the columns of `summary.arms`, and `on_front`.
        cost: a column of it.
        name: of the axis.
    """
    shares = sorted(table["reduction"].dropna().unique()) or [np.nan]
    rows, columns = -(-len(shares) // 2), min(len(shares), 2)
    figure.set_size_inches(7.2, 3.8 if len(shares) == 1 else 2.3 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in panels[len(shares) :]:
        ax.remove()
    for number, (ax, share) in enumerate(zip(panels, shares, strict=False)):
        # An arm without a budget of its own stands in every panel.
        part = table[table["reduction"].isna() | (table["reduction"] == share)]
        # Square roots spread the low counts, where schedules differ, and unlike logarithms have 0.
        ax.set_xscale("function", functions=(_root, _square))
        ax.set_title("" if np.isnan(share) else f"reduction {share:.0f} %")
        _draw_arms(ax, part, cost)
        front = part[part["on_front"]].sort_values([cost, "test_acc"])
        (line,) = ax.step(front[cost], 100 * front["test_acc"], where="post", color=style.QUIET)
        line.set(zorder=1.5, gid="front")
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
        if number >= len(shares) - columns:
            ax.set_xlabel(f"{name},\nsquare-root scale")
    _draw_legend(figure, table)


def draw_costs(figure: Figure, table: pd.DataFrame, costs: Mapping[str, str]) -> None:
    """Draw accuracy over several costs, the budgets of a series joined by a line.

    Args:
        figure: an empty one.
        costs: column -> name of its axis, a panel each.
    """
    figure.set_size_inches(7.2, 2.8 * len(costs) + 0.7)
    panels = figure.subplots(len(costs), squeeze=False)[:, 0]
    for ax, (cost, name) in zip(panels, costs.items(), strict=True):
        _draw_arms(ax, table, cost)
        known = table[table[cost].notna() & (table["seeds"] > 0)]
        for number, (series, some) in enumerate(known.groupby("series", sort=False)):
            some = some.sort_values("reduction")
            (line,) = ax.plot(some[cost], 100 * some["test_acc"], zorder=1.5)
            line.set_color(style.dark(style.look(str(series)).color))
            line.set(linestyle=DASHES[number % len(DASHES)], gid=f"series:{series}")
        ax.xaxis.set_major_formatter(EngFormatter())
        ax.set_xlabel(name)
    _draw_legend(figure, table)


def _draw_arms(ax: Axes, table: pd.DataFrame, cost: str) -> None:
    """A mark per arm with its interval and its range over the seeds, and the dense model's line.

    Marks at the same place stand side by side, and all are translucent.
    """
    ax.set_ylabel("test accuracy (%)")
    found = table[(table["seeds"] > 0) & table[cost].notna()]
    if found.empty:
        ax.text(0.5, 0.5, "no finished trial", transform=ax.transAxes, ha="center")
        return
    for (_, arm), x in zip(found.iterrows(), _aside(ax, found[cost]), strict=True):
        y, low, high = (100 * arm[f"test_acc{end}"] for end in ("", "_low", "_high"))
        spread = [arm[f"{cost}_min"], arm[f"{cost}_max"]]
        ax.plot(spread, [y, y], color=style.QUIET, linewidth=0.7, zorder=2)
        ax.plot([x, x], [low, high], color=style.INK, linewidth=1.0, zorder=2)
        mark = style.mark(arm["arm"], alpha=0.85, zorder=3, gid=f"mark:{arm['arm']}")
        ax.plot([x], [y], **mark)
    dense = 100 * float(found["dense_test_acc"].mean())
    if not np.isnan(dense):
        ax.axhline(dense, color=style.QUIET, linestyle=(0, (5, 3)), linewidth=1.0, zorder=1)
        text = ax.text(1, dense, f"dense {dense:.1f} %", transform=ax.get_yaxis_transform())
        text.set(ha="right", va="bottom", fontsize="small", color=style.QUIET)
    ax.margins(0.08, 0.1)
    ax.ticklabel_format(axis="y", useOffset=False)


def _aside(ax: Axes, values: pd.Series) -> NDArray[np.float64]:
    """Positions of marks on the x axis; marks of equal values stand side by side."""
    there, back = ax.get_xaxis().get_transform(), ax.get_xaxis().get_transform().inverted()
    places = there.transform(values.to_numpy(float))
    same = pd.Series(places.round(9))
    number, count = same.groupby(same).cumcount(), same.groupby(same).transform("size")
    span = float(np.ptp(places)) or max(abs(float(places[0])), 1.0)
    moved: NDArray[np.float64] = back.transform(places + ASIDE * span * (number - (count - 1) / 2))
    return moved


def _root(values: ArrayLike) -> NDArray[np.float64]:
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: ArrayLike) -> NDArray[np.float64]:
    return np.sign(values) * np.square(values)


def _draw_legend(figure: Figure, table: pd.DataFrame) -> None:
    """A legend of the series that have a finished trial."""
    found = table[table["seeds"] > 0].drop_duplicates("series")
    swept = dict(zip(found["arm"], found["reduction"].notna(), strict=True))
    labels = dict(zip(found["arm"], found["label"], strict=True))
    style.legend(
        figure, {a: arms.without_budget(text) if swept[a] else text for a, text in labels.items()}
    )
