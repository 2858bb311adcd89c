"""Where the time of a trial goes, arm by arm, and how much of it any schedule could save.

`python analysis/fig_time.py RESULTS`
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from adacomcat.checks import require
from analysis import command, load, notes, stats, style

NAME = "time"

CLOCKS = ("train_s", "data_s", "search_s", "rebuild_s", "eval_s", "other_s")
"""The parts of `wall_s`, in the order of a bar."""

COLUMNS = (
    "arm",
    "label",
    "workload",
    "seed",
    "searches",
    "epochs",
    *CLOCKS,
    "wall_s",
    "searching_share",
    "every_epoch_share",
    *notes.COLUMNS,
)


@dataclass(frozen=True)
class Part:
    """How a part of a bar is named and filled."""

    name: str
    color: str
    hatch: str


# Slates, since the hues are the arms'; searching is darkest, and neighbors differ in grayscale.
PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "train_s": Part("training", "#c3cdd6", ""),
        "data_s": Part("waiting for data", "#ffffff", "...."),
        "search_s": Part("searching", "#2c3e50", ""),
        "rebuild_s": Part("rebuilding", "#8496a6", "////"),
        "eval_s": Part("evaluating", "#e9eef2", "xxxx"),
        "other_s": Part("other", "#ffffff", ""),
    }
)

UNITS = ((3 * 3600.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From this many seconds on, the length of the unit in seconds, its name."""

ROW = 0.27
"""Inches of a bar with the room around it."""


def data(results: Path) -> pd.DataFrame:
    """One row a finished trial, with the columns `COLUMNS`; an arm without one is one row of nan.

    Seconds. `data_s`, waiting for batches, is taken out of `train_s` and `search_s`, which had it:
    where both ran in an epoch, training waits as long as it did on average in the epochs without a
    search, and searching the rest. `other_s` is what of `wall_s` no clock saw. A clock that was not
    recorded is nan. `epochs` counts those of the search phase, `searches` the searches.

    `searching_share` is the share of `wall_s` that searches took, rebuilding and their waiting
    included; a trial without a search has to rebuild once, too. `every_epoch_share` is the same
    share had the trial searched at every epoch but the first, at its own mean price of a search:
    the most that any schedule can save against that. For `fixed_1` both are the same; nan without a
    search.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `load.epochs`, no trial has finished yet, or none has its clocks.
    """
    trials = notes.sound(results)
    epochs = load.epochs(results)
    done = load.finished(trials)
    timed = done[done["wall_s"].astype(float) > 0]
    require(len(timed) > 0, f"{results}: wall_s", "nothing", "finished trials with their clocks")
    traces = dict(list(epochs.groupby("trial_id")))
    rows = [
        clocks(trial, traces.get(trial["trial_id"], epochs.iloc[:0]))
        for _, trial in timed.iterrows()
    ]
    table = notes.standing(trials).merge(pd.DataFrame(rows), on="arm", how="left")
    return table[list(COLUMNS)]


def axes(table: pd.DataFrame) -> NDArray[Any]:
    """Two panels side by side, as high as the arms need."""
    names = _names(table)
    lines = sum(name.count("\n") + 1 for name in names)
    longest = max(len(line) for name in names for line in name.split("\n"))
    return style.new_figure(
        1,
        2,
        width=7.6,
        height=max(ROW * max(lines, len(names)) + 0.1, 0.9),
        widths=(1.75, 1),
        left=0.2 + 0.068 * longest,
        right=0.2,
        top=0.75,
        across=0.55,
        note=_note(table),
    )


def draw(panels: NDArray[Any], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`."""
    left, right = panels[0]
    arms = table.drop_duplicates("arm")["arm"].tolist()
    _draw_bars(left, table, arms)
    _draw_shares(right, table, arms)
    for ax in (left, right):
        ax.set_ylim(len(arms) - 0.4, -0.6)
        ax.set_yticks(range(len(arms)), _names(table) if ax is left else [""] * len(arms))
        ax.tick_params(axis="y", length=0, labelsize=8.3)
        ax.grid(axis="y", visible=False)
    workload = table["workload"].iloc[0]
    style.headline(left.figure, f"Where the time goes, workload {workload}")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """An arm a line: mean seconds of each part, and the share of searching."""
    means = table.groupby("label", sort=False)[[*CLOCKS, "wall_s"]].mean()
    share = 100 * table.groupby("label", sort=False)["searching_share"].mean()
    shown = means.map(lambda value: "" if np.isnan(value) else f"{value:,.1f}")
    shown["searching %"] = share.map(lambda value: "" if np.isnan(value) else f"{value:.1f}")
    return f"{shown.to_string()}\n{most(table)}"


def _ceiling(table: pd.DataFrame) -> tuple[pd.Series, bool]:
    """What any schedule could save at all, % of a run that searches at every epoch; trial by trial.

    Measured (True) on the trials of `fixed_1` where there are any; else reckoned from all that
    searched; empty where none did.
    """
    measured = table[table["arm"].str.fullmatch(r"fixed_1(_\d+)?")]["every_epoch_share"].dropna()
    shares = measured if len(measured) else table["every_epoch_share"].dropna()
    return 100 * shares, len(measured) > 0


def most(table: pd.DataFrame) -> str:
    """The sentence on what any schedule could save at all; empty where nothing ever searched."""
    shares, measured = _ceiling(table)
    if not len(shares):
        return ""
    found = stats.estimate(shares)
    interval = (
        "no interval"
        if not found.has_interval
        else (f"{100 * stats.LEVEL:g} % t interval {found.low:.1f} to {found.high:.1f}")
    )
    how = (
        "measured on every epoch's own trials"
        if measured
        else ("reckoned from what a search takes here, since no trial searched at every epoch")
    )
    trials = f"{found.seeds} trial{'s' if found.seeds > 1 else ''}"
    return (
        f"At most {found.mean:.1f} % of a run that searches at every epoch can be saved by any "
        f"schedule ({how}: {trials}, {interval})."
    )


def clocks(trial: pd.Series, epochs: pd.DataFrame) -> dict[str, Any]:
    """The clocks of one finished trial, waiting taken out, and its shares: see `data`.

    Args:
        trial: a row of `load.trials`.
        epochs: its rows of `load.epochs`.
    """
    names = ("train_s", "search_s", "rebuild_s", "eval_s", "data_s", "wall_s")
    found = {name: float(trial[name]) if trial[name] is not None else np.nan for name in names}
    searching = found["search_s"] + np.nan_to_num(found["rebuild_s"])
    seen = np.nansum([found[name] for name in names[:4]])
    waited = _search_wait(epochs)
    if not np.isnan(found["data_s"]):
        waited = min(waited, found["data_s"], found["search_s"])
        found["search_s"] -= waited
        found["train_s"] -= found["data_s"] - waited
    # The clocks are read at other moments than the wall's: a hair below zero is zero.
    found["other_s"] = max(found["wall_s"] - seen, 0.0)
    searches = int(trial["searches"])
    there = int((epochs["phase"] == "search").sum())
    every = np.nan
    if searches and there > 1:
        whole = searching / searches * (there - 1)
        every = whole / (found["wall_s"] - searching + whole)
    return {
        "arm": trial["arm"],
        "seed": trial["seed"],
        "searches": searches,
        "epochs": there,
        **found,
        "searching_share": searching / found["wall_s"],
        "every_epoch_share": every,
    }


def _search_wait(epochs: pd.DataFrame) -> float:
    """Seconds that searches waited for batches, as `data` says; 0 where that is unknown."""
    waits = epochs["data_s"].astype(float).fillna(0.0)
    searched = epochs["searched"].eq(True)
    usual = waits[~searched & (epochs["phase"] == "search")]
    # The first epoch starts the loaders; but where it alone is without a search, it must do.
    usual = usual.iloc[1:] if len(usual) > 1 else usual
    return float((waits[searched] - (usual.mean() if len(usual) else 0.0)).clip(lower=0).sum())


def _names(table: pd.DataFrame) -> list[str]:
    labels = table.drop_duplicates("arm")["label"]
    return [textwrap.fill(label, width=26) for label in labels]


def _unit(table: pd.DataFrame) -> tuple[float, str]:
    """Length in seconds and name of the unit in which the longest arm is a handy number."""
    longest = float(table.groupby("arm")["wall_s"].mean().max())
    return next((length, name) for least, length, name in UNITS if longest >= least)


def _draw_bars(ax: Axes, table: pd.DataFrame, arms: Sequence[str]) -> None:
    """A bar an arm: means over its seeds, one part after another; the total behind it."""
    length, unit = _unit(table)
    means = table.groupby("arm")[[*CLOCKS, "wall_s"]].mean().reindex(list(arms)) / length
    rows, start = np.arange(len(arms)), np.zeros(len(arms))
    for name, part in PARTS.items():
        widths = means[name].fillna(0.0).to_numpy(float)
        if widths.max() < 0.002 * means["wall_s"].max():
            continue
        ax.barh(
            rows,
            widths,
            left=start,
            height=0.66,
            color=part.color,
            hatch=part.hatch,
            edgecolor=style.INK,
            linewidth=0.6,
            label=part.name,
            gid=name,
        )
        start += widths
    for row, total in enumerate(means["wall_s"]):
        digits = 0 if total >= 100 else 1
        text = " no finished trial" if np.isnan(total) else f" {total:,.{digits}f}"
        ax.text(0 if np.isnan(total) else total, row, text, va="center", fontsize=8.3)
    ax.set_xlim(0, 1.13 * float(means["wall_s"].max()))
    ax.set_xlabel(f"{unit} of a trial, mean over seeds")
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=1.2,
        labelspacing=0.25,
    )


def _draw_shares(ax: Axes, table: pd.DataFrame, arms: Sequence[str]) -> None:
    """The share of searching: a small mark a trial, a larger one the arm's mean."""
    for row, arm in enumerate(arms):
        shares = 100 * table.loc[table["arm"] == arm, "searching_share"].dropna()
        look = style.look(arm)
        if not len(shares):
            continue
        ax.plot(
            shares,
            [row] * len(shares),
            linestyle="none",
            marker="|",
            markersize=9,
            color=style.QUIET,
            markeredgewidth=0.8,
            zorder=2,
            gid=f"trials:{arm}",
        )
        ax.plot(
            [shares.mean()],
            [row],
            linestyle="none",
            marker=look.marker,
            markersize=look.size,
            color=look.color,
            markeredgecolor=style.INK,
            markeredgewidth=0.8,
            zorder=3,
            gid=f"mark:{arm}",
        )
        # In a column of its own, so that it covers no mark.
        ax.annotate(
            f"{shares.mean():.1f} %",
            (1, row),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            fontsize=8.3,
        )
    ceiling, highest = _ceiling(table)[0].mean(), float(100 * table["searching_share"].max())
    highest = max(highest, float(np.nan_to_num(ceiling)), 1)
    ax.set_xlim(0 - 0.04 * highest, 1.45 * highest)
    ax.set_xlabel("searching, share of a trial (%)")
    if not np.isnan(ceiling):
        ax.axvline(
            ceiling, color=style.INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1, gid="ceiling"
        )
        ax.annotate(
            f"if every epoch: {ceiling:.1f} %,\nthe most to be saved",
            (1, 1),
            xycoords="axes fraction",
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            linespacing=1.1,
        )


def _note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure."""
    done = table.dropna(subset=["wall_s"])
    absent = [PARTS[name].name for name in CLOCKS if done[name].isna().all()]
    parts = [
        f"{most(table)} Dashed on the right." if most(table) else "",
        "Searching on the right includes rebuilding the model; small strokes are single trials.",
        "Seconds also tell what else the machine did; shares do so less.",
        f"Not recorded: {', '.join(absent)}." if absent else "",
    ]
    return notes.write(parts, table)


if __name__ == "__main__":
    raise SystemExit(main())
