"""Test accuracy against the number of searches (NAS invocations), arm by arm.

`python analysis/fig_accuracy_vs_searches.py RESULTS`
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from adacomcat.checks import require
from analysis import labels, load, stats, style

Array = NDArray[np.float64]

NAME = "accuracy_vs_searches"

COLUMNS = (
    "arm", "label", "workload", "seeds",
    "searches", "searches_min", "searches_max",
    "test_acc", "test_acc_low", "test_acc_high",
    "params", "dense_test_acc", "left_out", "left_out_why", "leakage",
)  # fmt: skip

TICKS = (0, 1, 2, 4, 6, 8, 11, 15, 20, 25, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000)

MARK_PT = 13.0
"""What a mark takes with some air around it; marks that are nearer than that are moved apart."""


def data(results: Path) -> pd.DataFrame:
    """One row an arm of the study, in its order, with the columns `COLUMNS`.

    Accuracies are shares (0..1). `searches`, `test_acc`, `params` and `dense_test_acc` are means
    over the finished seeds (`seeds` of them), nan for none. `test_acc_low` and `test_acc_high` are
    the ends of the 95 % t interval of the mean, nan with fewer than three seeds. `left_out` counts
    the trials that have not finished, and `left_out_why` says how they stand; `leakage` is a
    sentence where the search or the selection saw the test images.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `load.trials`, or no trial has finished yet.
    """
    trials = load.trials(results)
    some = len(load.finished(trials)) > 0
    require(some, str(results), load.left_out(trials), "a study with a finished trial")
    rows = [_row(arm) for _, arm in trials.groupby("arm", sort=False)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(trials: pd.DataFrame) -> dict[str, Any]:
    """Sum up the trials of one arm."""
    done, missing = load.finished(trials), load.left_out(trials)
    accuracy = stats.estimate(done["test_acc"])
    searches = done["searches"].astype(float)
    return {
        **{key: trials[key].iloc[0] for key in ("arm", "label", "workload")},
        "seeds": accuracy.seeds,
        "searches": searches.mean(), "searches_min": searches.min(), "searches_max": searches.max(),
        "test_acc": accuracy.mean, "test_acc_low": accuracy.low, "test_acc_high": accuracy.high,
        "params": done["params"].astype(float).mean(),
        "dense_test_acc": done["dense_test_acc"].astype(float).mean(),
        "left_out": sum(missing.values()),
        "left_out_why": ", ".join(f"{count} {status}" for status, count in missing.items()),
        "leakage": "; ".join(sorted({*trials["leakage"].dropna()} - {""})),
    }  # fmt: skip


def draw(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the table of `data`; the axes must have their final place in the figure.

    Arms without a finished trial are named in the note below, not drawn. Marks of arms with nearly
    the same number of searches are moved apart sideways, so that none hides another.
    """
    shown = _percent(table)
    dense = 100 * float(table["dense_test_acc"].mean())
    levels = [*shown["test_acc_low"], *shown["test_acc_high"], dense]
    _set_axes(ax, float(shown["searches_max"].max()), min(levels), max(levels))
    _draw_dense(ax, dense)
    shifts = _shifts(ax, shown)
    for (_, arm), shift in zip(shown.iterrows(), shifts, strict=True):
        _draw_mark(ax, arm, shift)
    labels.annotate(ax, list(shown["label"]), _scene(ax, shown, shifts, dense))
    note = _note(table, moved=bool((np.abs(shifts) > 1).any()))
    ax.text(0, -0.16, note, transform=ax.transAxes, va="top", fontsize="small", color=style.QUIET)
    ax.set_title(f"Accuracy against searches, workload {table['workload'].iloc[0]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    parser = argparse.ArgumentParser(description="Test accuracy against the number of searches.")
    parser.add_argument("results", type=Path, help="a results directory, with its study.json")
    results = parser.parse_args(argv).results
    try:
        table = data(results)
    except ValueError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    with style.shared_style():
        ax = style.new_axes()
        draw(ax, table)
        paths = style.save(ax, table, results / "figures", NAME)
    print(as_text(table), *paths, sep="\n")
    return 0


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: an arm a line, the dense model and a legend below."""
    half = 100 * (table["test_acc_high"] - table["test_acc_low"]) / 2
    spread = half.map(lambda h: "" if np.isnan(h) else f" ± {h:.2f}")
    shown = pd.DataFrame(
        {
            "arm": table["label"],
            "seeds": table["seeds"],
            "test accuracy %": (100 * table["test_acc"]).map("{:.2f}".format) + spread,
            "searches": table["searches"].map("{:.1f}".format),
            "params": table["params"].map("{:,.0f}".format),
            "left out": table["left_out_why"],
        }
    )
    leaks = "".join(f"\n{note}" for note in sorted({*table["leakage"]} - {""}))
    dense = f"dense model {table['dense_test_acc'].mean():.2%} test accuracy"
    legend = f"± half of the {stats.LEVEL:.0%} t interval, from {stats.MIN_SEEDS} seeds on"
    return f"{shown.to_string(index=False)}\n{dense}; {legend}{leaks}"


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    """The arms that have a mean, accuracies in %; the mean stands for the ends of no interval."""
    shown = table[table["seeds"] > 0].reset_index(drop=True)
    means = shown["test_acc"]
    for column in ("test_acc", "test_acc_low", "test_acc_high"):
        shown[column] = 100 * shown[column].fillna(means)
    return shown


def _set_axes(ax: Axes, most: float, low: float, high: float) -> None:
    """Scales, limits, ticks and names, for `most` searches and accuracies (%) from low to high."""
    # Square roots spread the low counts, where schedules differ, and unlike logarithms know zero.
    ax.set_xscale("function", functions=(_root, _square))
    reach = max(most, 1.0) ** 0.5
    ax.set_xlim(-((0.08 * reach) ** 2), (1.08 * reach) ** 2)
    margin = 0.15 * max(high - low, 1.0)
    # An interval may reach beyond 100 %, an axis need not.
    ax.set_ylim(low - margin, min(high + margin, 100 + 0.3 * margin))
    ax.set_xticks(_ticks(ax))
    ax.minorticks_off()
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set_xlabel("NAS invocations (searches) of a trial, square-root scale")
    ax.set_ylabel("test accuracy (%)")


def _root(counts: Any) -> Any:
    return np.sign(counts) * np.sqrt(np.abs(counts))


def _square(roots: Any) -> Any:
    return np.sign(roots) * np.square(roots)


def _ticks(ax: Axes) -> list[int]:
    """The counts of `TICKS` that lie in the axes, without those too close to the one before."""
    kept: list[int] = []
    last = -np.inf
    for count in TICKS:
        at = float(ax.transData.transform((count, 0))[0])
        if count <= ax.get_xlim()[1] and at - last >= 20 * ax.figure.dpi / 72:
            kept.append(count)
            last = at
    return kept


def _draw_dense(ax: Axes, dense: float) -> None:
    ax.axhline(dense, color=style.QUIET, linestyle=(0, (5, 3)), linewidth=1.0, zorder=1)
    ax.annotate(
        f"dense\n{dense:.1f} %", (1, dense), xycoords=("axes fraction", "data"),
        xytext=(4, 0), textcoords="offset points", va="center", color=style.QUIET,
    )  # fmt: skip


def _shifts(ax: Axes, shown: pd.DataFrame) -> Array:
    """How far each mark is moved sideways, in pixels: the least that sets them `MARK_PT` apart."""
    at = ax.transData.transform(shown[["searches", "test_acc"]].to_numpy(float))[:, 0]
    order = np.argsort(at, kind="stable")
    steps = np.arange(len(at)) * MARK_PT * ax.figure.dpi / 72
    # With its steps taken off, what must keep a distance must only keep its order.
    ordered = isotonic_regression(at[order] - steps).x
    frame = ax.get_window_extent()
    air = MARK_PT / 2 * ax.figure.dpi / 72
    inside = np.clip(ordered, frame.x0 + air, max(frame.x0 + air, frame.x1 - air - steps[-1]))
    shifts = np.empty(len(at))
    shifts[order] = inside + steps - at[order]
    return shifts


def _draw_mark(ax: Axes, arm: pd.Series, shift: float) -> None:
    """A marker with its bars: upright the interval, level the range of counts over the seeds."""
    look = style.look(arm["arm"])
    inches = shift / ax.figure.dpi
    move = ax.transData + ScaledTranslation(inches, 0, ax.figure.dpi_scale_trans)
    x, y = arm["searches"], arm["test_acc"]
    bars: dict[str, Any] = {"transform": move, "color": style.INK, "linewidth": 1.0, "zorder": 2}
    ax.plot([x, x], [arm["test_acc_low"], arm["test_acc_high"]], **bars)
    ax.plot([arm["searches_min"], arm["searches_max"]], [y, y], **bars)
    ax.plot(
        [x], [y], transform=move, gid=f"mark:{arm['arm']}", zorder=3, linestyle="none",
        marker=look.marker, markersize=look.size, color=look.colour,
        markeredgecolor=style.INK, markeredgewidth=0.8,
    )  # fmt: skip


def _scene(ax: Axes, shown: pd.DataFrame, shifts: Array, dense: float) -> labels.Scene:
    """What the labels keep clear of: marks, intervals and the line of the dense model."""
    pixel = ax.figure.dpi / 72

    def at(x: str, y: str) -> Array:
        points = ax.transData.transform(shown[[x, y]].to_numpy(float))
        moved: Array = points + np.column_stack([shifts, np.zeros_like(shifts)])
        return moved

    anchors = at("searches", "test_acc")
    radii = np.array([[style.look(arm).size * pixel / 2] for arm in shown["arm"]])
    low, high = at("searches", "test_acc_low"), at("searches", "test_acc_high")
    left, right = at("searches_min", "test_acc"), at("searches_max", "test_acc")
    frame = ax.get_window_extent()
    level = float(ax.transData.transform((0, dense))[1])
    lines = [[low - pixel, high + pixel], [left - pixel, right + pixel]]
    across = [[frame.x0, level - pixel, frame.x1, level + pixel]]
    return labels.Scene(
        anchors=anchors,
        marks=np.hstack([anchors - radii, anchors + radii]),
        lines=np.vstack([*(np.hstack(ends) for ends in lines), across]),
        area=frame.extents,
        gap=3 * pixel,
    )


def _note(table: pd.DataFrame, *, moved: bool) -> str:
    """What a reader must know of the figure, in lines below it."""
    shown = table[table["seeds"] > 0]
    seeds = f"{shown['seeds'].min()} to {shown['seeds'].max()}"
    if shown["seeds"].nunique() == 1:
        seeds = str(shown["seeds"].iloc[0])
    bare = shown[shown["test_acc_low"].isna()]
    parts = [f"Test accuracy: mean over seeds ({seeds})"]
    if len(bare) < len(shown):
        parts[0] += f", bars: {100 * stats.LEVEL:g} % t interval"
    parts[0] += "."
    if len(bare):
        which = "" if len(bare) == len(shown) else f" for {', '.join(bare['label'])}"
        parts.append(f"No interval{which}: fewer than {stats.MIN_SEEDS} seeds.")
    if (shown["searches_min"] < shown["searches_max"]).any():
        parts.append("Level bars: fewest to most searches of a seed.")
    if moved:
        parts.append("Marks with nearly equal counts are moved apart.")
    # A budget is a ceiling: arms that stay below it by different amounts are no equals.
    fewest, most = shown["params"].min(), shown["params"].max()
    parts.append(f"Mean parameters of an arm: {fewest:,.0f}")
    parts[-1] += f" to {most:,.0f}." if most > fewest else "."
    missing = table[table["left_out"] > 0]
    why = [f"{row['label']} ({row['left_out_why']})" for _, row in missing.iterrows()]
    parts.append(f"Trials left out: {', '.join(why) or 'none'}.")
    for leak, arms in shown[shown["leakage"] != ""].groupby("leakage"):
        which = "" if len(arms) == len(shown) else f" ({', '.join(arms['label'])})"
        parts.insert(0, f"{leak}{which}.")
    return textwrap.fill(" ".join(parts), width=102)


if __name__ == "__main__":
    raise SystemExit(main())
