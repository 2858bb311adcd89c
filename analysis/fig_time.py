"""Time of a trial by activity and arm, and the share that a schedule could save.

`python analysis/fig_time.py RESULTS`
"""

import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adacomcat.checks import require
from analysis import command, load, notes, stats, style

QUESTION = "Where does the time of a trial go, and how much of it could any schedule save?"

PARTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "train_s": ("training", "#c3cdd6"),
        "data_s": ("waiting for data", "#ffffff"),
        "search_s": ("searching", "#2c3e50"),
        "rebuild_s": ("rebuilding", "#8496a6"),
        "eval_s": ("evaluating", "#e9eef2"),
        "other_s": ("other", "#ffffff"),
    }
)
"""The parts of `wall_s` -> name and shade; searching is darkest, since hues belong to arms."""

COLUMNS = (
    *"arm label workload seed searches epochs".split(),
    *PARTS,
    *"wall_s searching_share every_epoch_share".split(),
    *notes.COLUMNS,
)

UNITS = ((3 * 3600.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From this many seconds on, the length of the unit in seconds, its name."""


def data(results: Path) -> pd.DataFrame:
    """One row per finished trial, with `COLUMNS`; an arm without one is one row of nan.

    Seconds. `data_s`, waiting for batches, is taken out of `train_s` and `search_s`, which had it:
    where both ran in an epoch, training waits as long as it did on average in the epochs without a
    search, and searching the rest. `other_s` is what of `wall_s` no clock saw. A clock that was not
    recorded is nan. `epochs` counts those of the search phase, `searches` the searches.

    `searching_share` is the share of `wall_s` that searches took, rebuilding and their waiting
    included; a trial without a search has to rebuild once, too. `every_epoch_share` is the same
    share had the trial searched at every epoch but the first, at its own mean cost of a search:
    the most that any schedule can save against that. For `fixed_1` both are the same; nan without a
    search.

    Raises:
        ValueError: as `load.epochs`, no trial has finished yet, or none has its clocks.
    """
    trials, known = notes.sound(results), ["trial_id", "phase", "searched", "data_s"]
    epochs = load.epochs(results).reindex(columns=known)
    done = load.finished(trials)
    timed = done[done["wall_s"].astype(float) > 0]
    require(len(timed) > 0, f"{results}: wall_s", "nothing", "finished trials with their clocks")
    traces = dict(list(epochs.groupby("trial_id")))
    rows = [
        clocks(trial, traces.get(trial["trial_id"], epochs.iloc[:0]))
        for _, trial in timed.iterrows()
    ]
    return notes.attach(trials, pd.DataFrame(rows), COLUMNS)


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
    if not np.isnan(found["data_s"]):
        waited = min(_search_wait(epochs), found["data_s"], found["search_s"])
        found["search_s"] -= waited
        found["train_s"] -= found["data_s"] - waited
    # The clocks are read at other moments than the wall's: a hair below zero is zero.
    found["other_s"] = max(found["wall_s"] - seen, 0.0)
    searches, there = int(trial["searches"]), int((epochs["phase"] == "search").sum())
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
    """Seconds that searches waited for batches; 0 if unknown."""
    waits = epochs["data_s"].astype(float).fillna(0.0)
    searched = epochs["searched"].eq(True)
    usual = waits[~searched & (epochs["phase"] == "search")]
    # The first epoch starts the loaders; but where it alone is without a search, it must do.
    usual = usual.iloc[1:] if len(usual) > 1 else usual
    return float((waits[searched] - (usual.mean() if len(usual) else 0.0)).clip(lower=0).sum())


def most(table: pd.DataFrame) -> str:
    """The sentence on how much any schedule could save at all; empty where nothing ever searched.

    Measured on the trials of `fixed_1` where there are any, else estimated from all that searched.
    """
    measured = table[table["arm"].str.fullmatch(r"fixed_1(_\d+)?")]["every_epoch_share"].dropna()
    shares = measured if len(measured) else table["every_epoch_share"].dropna()
    if not len(shares):
        return ""
    found = stats.estimate(100 * shares)
    interval = f"{100 * stats.LEVEL:g} % t interval {found.low:.1f} to {found.high:.1f}"
    how = "measured on every epoch's own trials"
    if not len(measured):
        how = "estimated from the mean cost of a search, since no trial searched at every epoch"
    return (
        f"At most {found.mean:.1f} % of a run that searches at every epoch can be saved by any "
        f"schedule ({how}: {notes.count([found.seeds], 'trial')}, "
        f"{interval if found.has_interval else 'no interval'})."
    )


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `data` into an empty figure: a stacked bar per arm, means over seeds."""
    labels = table.drop_duplicates("arm").set_index("arm")["label"]
    figure.set_size_inches(7.2, 1.7 + 0.3 * len(labels))
    ax = figure.subplots()
    means = table.groupby("arm")[[*PARTS, "wall_s", "searching_share"]].mean().loc[labels.index]
    longest = float(means["wall_s"].max())
    length, unit = next((length, name) for least, length, name in UNITS if longest >= least)
    # Parts too narrow to be seen are left to the table.
    there = [part for part in PARTS if means[part].max() >= 0.002 * longest]
    bars = (means[there] / length).fillna(0.0).rename(columns={p: PARTS[p][0] for p in there})
    shades: Any = [PARTS[part][1] for part in there]
    bars.plot.barh(stacked=True, ax=ax, color=shades, edgecolor=style.INK, linewidth=0.6, width=0.7)
    for row, (_, arm) in enumerate(means.iterrows()):
        wall, share = arm["wall_s"] / length, arm["searching_share"]
        text = "no finished trial" if np.isnan(wall) else f"{wall:,.1f}, {share:.1%} searching"
        ax.annotate(f" {text}", (np.nan_to_num(wall), row), va="center", fontsize=8)
    ax.set_yticks(range(len(labels)), [textwrap.fill(label, width=26) for label in labels])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.4 * longest / length)
    ax.set(xlabel=f"{unit} of a trial, mean over seeds", ylabel="")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handlelength=1.4)
    style.title(figure, f"Where the time goes, workload {table['workload'].iloc[0]}")


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    done = table.dropna(subset=["wall_s"])
    absent = [name for part, (name, _) in PARTS.items() if done[part].isna().all()]
    parts = [
        most(table),
        "The share of searching includes rebuilding the model and waiting for its data.",
        "Seconds depend on the load of the machine; shares do so less.",
        f"Not recorded: {', '.join(absent)}." if absent else "",
    ]
    return notes.write(parts, table)


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per arm: mean seconds of each part, and the share of searching."""
    arms = table.groupby("arm", sort=False)
    means = arms[[*PARTS, "wall_s"]].mean().map("{:,.1f}".format)
    shown = means.rename(columns={part: name for part, (name, _) in PARTS.items()})
    shown.insert(0, "arm", arms["label"].first())
    shown["searching %"] = (100 * arms["searching_share"].mean()).map("{:.1f}".format)
    shown = shown.rename(columns={"wall_s": "all"}).reset_index(drop=True)
    return {"Seconds, means over seeds": shown.replace("nan", "")}


EXHIBITS = (command.Exhibit("time", QUESTION, data, summarize, note, draw),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
