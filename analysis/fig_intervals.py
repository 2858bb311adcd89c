"""The search interval F(t) over epochs, with the searches marked, arm by arm and seed by seed.

`python analysis/fig_intervals.py RESULTS`
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from adacomcat.checks import require
from analysis import command, load, notes, style

NAME = "intervals"

COLUMNS = (
    "arm",
    "label",
    "workload",
    "seed",
    "epoch",
    "interval",
    "searched",
    "sites_changed",
    *notes.COLUMNS,
)

CURVES, MOVING = 6, 2
"""Arms whose F(t) is drawn, and those of them whose F(t) moves; every arm is in the lower panel."""

STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 2)))

ROW, TALLEST = 0.075, 7.5
"""Inches: of a seed's row in the lower panel, and of that panel at most."""


def data(results: Path) -> pd.DataFrame:
    """One row an epoch of the search phase of every finished trial, with the columns `COLUMNS`.

    `interval` is F(t) in epochs, after the search of the epoch if there was one; nan where the
    schedule has none. `sites_changed` counts the sites on which the plan found differs from the
    one before (all of them at a first search, if recorded); nan without a search. An arm without a
    finished trial is one row without seed and epoch. The last columns are as `notes.standing`.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `load.epochs`, no trial has finished yet, or none has a search phase.
    """
    arms = notes.standing(notes.sound(results))
    kept = ["arm", "seed", "phase", "epoch", "interval", "searched", "sites_changed"]
    epochs = load.finished(load.epochs(results)).reindex(columns=kept)
    epochs = epochs[epochs["phase"] == "search"]
    require(len(epochs) > 0, f"{results}: epochs", 0, "finished trials with a search phase")
    table = arms.merge(epochs, on="arm", how="left")
    numbers = ["seed", "epoch", "interval", "sites_changed"]
    table[numbers] = table[numbers].astype(float)
    table["searched"] = table["searched"].eq(True)
    return table[list(COLUMNS)]


def axes(table: pd.DataFrame) -> NDArray[Any]:
    """Two panels, the lower one as high as its rows need."""
    curves = len(_curves(table)) > 0
    low = _pitch(table) * (_rows(table)["row"].max() + 1) + 0.1
    names = [style.short(label) for label in table["label"].unique()]
    return style.new_figure(
        2 if curves else 1,
        1,
        height=2.4 + 0.45 + low if curves else low,
        heights=(2.4, low) if curves else None,
        down=0.45,
        note=_note(table),
        left=max(style.room(names), 0.8),
        right=max(style.room(names if curves else []), 1.15),
        width=5.2 + style.room(names),
    )


def draw(panels: NDArray[Any], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`."""
    *above, below = panels[:, 0]
    for ax in above:
        _draw_curves(ax, table)
    _draw_searches(below, table)
    last = float(table["epoch"].max())
    for ax in panels[:, 0]:
        ax.set_xlim(-0.7, last + 0.7)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlabel("epoch of the search phase")
    workload = table["workload"].iloc[0]
    style.title(panels[0, 0], f"Search interval and searches, workload {workload}")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table for a terminal: a trial a line, with its epochs of search and the last interval."""
    rows = []
    known = table.dropna(subset=["epoch"])
    for _, trial in known.groupby(["arm", "seed"], sort=False):
        searched = trial.loc[trial["searched"], "epoch"].astype(int)
        last = trial["interval"].iloc[-1]
        rows.append(
            {
                "arm": trial["label"].iloc[0],
                "seed": int(trial["seed"].iloc[0]),
                "searches": len(searched),
                "last interval": "" if np.isnan(last) else f"{last:g}",
                "at epochs": " ".join(map(str, searched)) or "none",
            }
        )
    return f"{pd.DataFrame(rows).to_string(index=False)}\n{notes.write([], table)}"


def _curves(table: pd.DataFrame) -> list[str]:
    """The arms whose F(t) is drawn: moving ones first, each kind in the order of the study.

    Of arms that look the same (the budgets of a schedule) the first.
    """
    known = table.dropna(subset=["interval"])
    spans = known.groupby("arm", sort=False)["interval"].agg(lambda f: f.max() > f.min())
    looks = {style.look(str(arm)): str(arm) for arm in spans.index[::-1]}
    first = [arm for arm in spans.index if arm in looks.values()]
    moving = [arm for arm in first if spans[arm]]
    return [*moving[:MOVING], *(arm for arm in first if not spans[arm])][:CURVES]


def _draw_curves(ax: Axes, table: pd.DataFrame) -> None:
    """F(t) of each seed in steps, on a scale of powers of two, with marks where it searched."""
    top = _longest(table)
    ends, names = [], []
    drawn = _curves(table)
    # The first is the one that moves: it lies above the others.
    for order, (arm, line) in enumerate(list(zip(drawn, STYLES, strict=False))[::-1]):
        of_arm, look = table[table["arm"] == arm].dropna(subset=["interval"]), style.look(arm)
        seeds = list(of_arm.groupby("seed"))
        if of_arm.groupby("epoch")[["interval", "searched"]].nunique().le(1).all(axis=None):
            seeds = seeds[:1]
        for number, (_, trial) in enumerate(seeds):
            # Equal lines of several seeds would hide each other.
            aside = 2 ** (0.09 * (number - (len(seeds) - 1) / 2))
            level = trial["interval"].clip(upper=top) * aside
            at = trial["searched"].to_numpy()
            ax.plot(
                trial["epoch"],
                level,
                drawstyle="steps-post",
                color=style.dark(look.color),
                linestyle=line,
                linewidth=1.1,
                gid=f"interval:{arm}",
                zorder=2 + order,
            )
            ax.plot(
                trial["epoch"][at],
                level[at],
                linestyle="none",
                marker=look.marker,
                markersize=0.5 * look.size,
                color=look.color,
                markeredgecolor=style.INK,
                markeredgewidth=0.5,
                zorder=2.5 + order,
            )
        ends.append(float(of_arm.groupby("seed")["interval"].last().clip(upper=top).median()))
        names.append(style.short(of_arm["label"].iloc[0]))
    ax.set_yscale("log", base=2)
    ax.set_ylim(2**-0.4, top * 2**0.4)
    ax.yaxis.set_major_locator(FixedLocator([2.0**i for i in range(int(math.log2(top)) + 1)]))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel("interval F(t) (epochs)")
    _name(ax, names, np.log2(ends))


def _name(ax: Axes, names: Sequence[str], ends: NDArray[np.float64]) -> None:
    """Write the names beside the right ends of the curves, given as powers of two."""
    low, high = np.log2(ax.get_ylim())
    inches = ax.get_window_extent().height / ax.figure.dpi
    gap = 0.15 / inches
    places = style.spread(list((ends - low) / (high - low)), gap)
    # Names at the upper end must not reach into the title.
    places -= max(0.0, places.max(initial=0.0) - (1 - gap / 2))
    for name, place in zip(names, places, strict=True):
        ax.annotate(
            name,
            (1, place),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )


def _longest(table: pd.DataFrame) -> float:
    """What the scale of F(t) ends at: the longest interval, or the phase where that is shorter."""
    return float(max(min(table["interval"].max(), table["epoch"].max() + 1), 2))


def _rows(table: pd.DataFrame) -> pd.DataFrame:
    """Where each trial stands in the lower panel: arm, label, seed, row; row 0 is the lowest.

    Arms stand apart by one row, and have two rows at least, so that their names do.
    """
    placed, row = [], 0.0
    for arm, of_arm in list(table.groupby("arm", sort=False))[::-1]:
        seeds = sorted(of_arm["seed"].unique())
        spare = max(0.0, 2 - len(seeds)) / 2
        for number, seed in enumerate(seeds[::-1]):
            placed.append(
                {
                    "arm": arm,
                    "label": of_arm["label"].iloc[0],
                    "seed": seed,
                    "row": row + spare + number,
                }
            )
        row += max(len(seeds), 2) + 1
    return pd.DataFrame(placed)


def _pitch(table: pd.DataFrame) -> float:
    """Inches of a row."""
    return float(min(ROW, TALLEST / (_rows(table)["row"].max() + 1)))


def _draw_searches(ax: Axes, table: pd.DataFrame) -> None:
    """A row a trial, a mark a search: filled where it changed the plan."""
    rows = _rows(table)
    searches = table[table["searched"]].merge(rows[["arm", "seed", "row"]], on=["arm", "seed"])
    first = ~searches.duplicated(["arm", "seed"])
    width = ax.get_window_extent().width / ax.figure.dpi * 72 / (table["epoch"].max() + 1.4)
    size = float(np.clip(min(0.75 * width, 52 * _pitch(table)), 1.0, 4.5))
    for changed, face in ((True, style.INK), (False, "white")):
        some = searches[(first | (searches["sites_changed"] > 0)) == changed]
        ax.plot(
            some["epoch"],
            some["row"],
            linestyle="none",
            marker="s",
            markersize=size,
            color=face,
            markeredgecolor=style.INK,
            markeredgewidth=0.6,
            gid=f"searches:{changed}",
        )
    at: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "fontsize": "small",
    }
    for arm, of_arm in rows.groupby("arm", sort=False):
        middle, name = of_arm["row"].mean(), style.short(of_arm["label"].iloc[0])
        ax.annotate(name, (0, middle), xytext=(-6, 0), ha="right", **at)
        count = _counts(table[table["arm"] == arm])
        ax.annotate(count, (1, middle), xytext=(5, 0), color=style.QUIET, **at)
    ax.set_ylim(-1, rows["row"].max() + 1)
    ax.set_yticks([])
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)


def _counts(of_arm: pd.DataFrame) -> str:
    """How often the trials of an arm searched: `5 to 8 searches`."""
    trials = of_arm.dropna(subset=["epoch"])
    if len(trials) == 0:
        return "no finished trial"
    counts = trials.groupby("seed")["searched"].sum()
    low, high = int(counts.min()), int(counts.max())
    if low < high:
        return f"{low} to {high} searches"
    return f"{low} {'search' if low == 1 else 'searches'}"


def _note(table: pd.DataFrame) -> str:
    drawn = _curves(table)
    known = table.dropna(subset=["interval"])["arm"].unique()
    seeds = table.dropna(subset=["seed"]).groupby("arm")["seed"].nunique().max()
    parts = ["Squares: a search; filled where it changed the plan, a first search always."]
    if seeds > 1:
        parts.append("Below, a row a seed.")
    if drawn and seeds > 1:
        parts.append("Above, a line a seed, moved apart a little where they would be one.")
    if len(known) > len(drawn):
        parts.append(f"F(t) of {len(known) - len(drawn)} further arms: see the CSV.")
    if known.size and table["interval"].max() > _longest(table):
        parts.append("Intervals beyond the end of the phase are drawn at its length.")
    return notes.write(parts, table)


if __name__ == "__main__":
    raise SystemExit(main())
