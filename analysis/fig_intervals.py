"""The search interval F(t) over epochs, and the searches of every trial.

`python analysis/fig_intervals.py RESULTS`
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adacomcat.checks import require
from analysis import command, load, notes, style

QUESTION = "When does each schedule search, and how does its interval grow?"

COLUMNS = (
    *"arm label workload seed epoch interval searched sites_changed".split(),
    *notes.COLUMNS,
)

CURVES = 6
"""Arms whose F(t) is drawn at most; every arm is in the lower panel."""


def data(results: Path) -> pd.DataFrame:
    """One row per epoch of the search phase of every finished trial, with the columns `COLUMNS`.

    `interval` is F(t) in epochs, after the search of the epoch if there was one; nan where the
    schedule has none. `sites_changed` counts the sites on which the plan found differs from the
    one before (all of them at a first search, if recorded); nan without a search. An arm without a
    finished trial is one row without seed and epoch. The last columns are as `notes.standing`.

    Raises:
        ValueError: as `load.epochs`, no trial has finished yet, or none has a search phase.
    """
    trials = notes.sound(results)
    kept = ["arm", "seed", "phase", "epoch", "interval", "searched", "sites_changed"]
    epochs = load.finished(load.epochs(results)).reindex(columns=kept)
    epochs = epochs[epochs["phase"] == "search"]
    require(len(epochs) > 0, f"{results}: epochs", 0, "finished trials with a search phase")
    return notes.attach(trials, epochs, COLUMNS)


def curves(table: pd.DataFrame) -> list[str]:
    """The arms whose F(t) is drawn, moving ones first; of arms that look the same, the first."""
    known = table.dropna(subset=["interval"]).groupby("arm", sort=False)["interval"]
    still = {str(arm): values.nunique() == 1 for arm, values in known}
    looks = {style.look(arm): arm for arm in reversed(still)}
    return sorted((arm for arm in still if arm in looks.values()), key=still.__getitem__)[:CURVES]


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `data` into an empty figure: F(t) above, the searches below."""
    drawn, trials = curves(table), table.groupby(["arm", "seed"], dropna=False).ngroups
    heights = ([2.4] if drawn else []) + [float(np.clip(0.11 * trials, 1.2, 7.5))]
    figure.set_size_inches(7.2, sum(heights) + 1.3)
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    if drawn:
        _draw_curves(panels[0], table, drawn)
        labels = table.drop_duplicates("arm").set_index("arm")["label"]
        style.legend(figure, {arm: labels[arm] for arm in drawn})
    _draw_searches(panels[-1], table)
    panels[-1].set_xlabel("epoch of the search phase")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    style.title(figure, f"Search interval and searches, workload {table['workload'].iloc[0]}")


def _draw_curves(ax: Axes, table: pd.DataFrame, arms: Sequence[str]) -> None:
    """F(t) of each seed in steps, on a scale of powers of two, with marks where it searched."""
    for arm in arms[::-1]:
        look, known = style.look(arm), table[table["arm"] == arm].dropna(subset=["interval"])
        for _, trial in known.groupby("seed"):
            level, at = trial["interval"].clip(upper=_longest(table)), trial["searched"]
            (line,) = ax.step(trial["epoch"], level, where="post", color=style.dark(look.color))
            line.set(alpha=0.7, linewidth=1.2, gid=f"interval:{arm}")
            mark = style.mark(arm, markersize=0.6 * look.size, alpha=0.8)
            ax.plot(trial["epoch"][at], level[at], **mark)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_ylabel("interval F(t) (epochs)")


def _longest(table: pd.DataFrame) -> float:
    """Upper end of the scale of F(t): the longest interval, or the length of a shorter phase."""
    return float(max(min(table["interval"].max(), table["epoch"].max() + 1), 2))


def _draw_searches(ax: Axes, table: pd.DataFrame) -> None:
    """A row per trial, a mark per search: filled where it changed the plan."""
    trials = table[["arm", "label", "seed"]].drop_duplicates().reset_index(drop=True)
    # Arms stand apart by one row.
    trials["row"] = trials.index + (trials["arm"] != trials["arm"].shift()).cumsum()
    searches = table[table["searched"]].merge(trials[["arm", "seed", "row"]], on=["arm", "seed"])
    first = ~searches.duplicated(["arm", "seed"])
    for changed, face in ((True, style.INK), (False, "white")):
        some = searches[(first | (searches["sites_changed"] > 0)) == changed]
        (marks,) = ax.plot(some["epoch"], some["row"], "s", color=face, markersize=3.5)
        marks.set(markeredgecolor=style.INK, markeredgewidth=0.6, gid=f"searches:{changed}")
    arms = trials.groupby("arm", sort=False).agg(label=("label", "first"), row=("row", "mean"))
    counts = [_counts(table[table["arm"] == arm]) for arm in arms.index]
    names = [f"{style.short(a)}: {c}" for a, c in zip(arms["label"], counts, strict=True)]
    ax.set_yticks(arms["row"].to_numpy(), names, fontsize="small")
    ax.set_ylim(trials["row"].max() + 1, 0)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


def _counts(of_arm: pd.DataFrame) -> str:
    """Numbers of searches of an arm's trials, as in `5 to 8 searches`."""
    counts = of_arm.dropna(subset=["epoch"]).groupby("seed")["searched"].sum()
    return notes.count(counts, "search", "searches") if len(counts) else "no finished trial"


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    known, drawn = table.dropna(subset=["interval"])["arm"].nunique(), len(curves(table))
    parts = [
        "Squares: a search, filled where it changed the plan (as a first search does); a row per "
        "seed.",
        "Above: a line per seed." if drawn else "",
        f"F(t) of {known - drawn} further arms: see the CSV." if known > drawn else "",
        "Intervals beyond the end of the phase are drawn at its length."
        if table["interval"].max() > _longest(table)
        else "",
    ]
    return notes.write(parts, table)


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per trial: its epochs of search and its last interval."""
    rows = []
    for _, trial in table.dropna(subset=["epoch"]).groupby(["arm", "seed"], sort=False):
        at, last = trial.loc[trial["searched"], "epoch"].astype(int), trial["interval"].iloc[-1]
        rows.append(
            {
                "arm": trial["label"].iloc[0],
                "seed": int(trial["seed"].iloc[0]),
                "searches": len(at),
                "last interval": "" if np.isnan(last) else f"{last:g}",
                "at epochs": " ".join(map(str, at)) or "none",
            }
        )
    return {"": pd.DataFrame(rows)}


EXHIBITS = (command.Exhibit("intervals", QUESTION, data, summarize, note, draw),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
