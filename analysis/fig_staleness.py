"""How stale the plan in force is, over epochs, and what a schedule's choice of epochs cost.

`python analysis/fig_staleness.py RESULTS`
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adacomcat.checks import require
from adacomcat.plan import Plan
from adacomcat.schedule import regret, stale_distance
from analysis import command, load, notes, style
from analysis.fig_ranks import in_force

NAME = "staleness"

COLUMNS = (
    "arm",
    "label",
    "workload",
    "seed",
    "reference",
    "epoch",
    "searched",
    "distance",
    "searches",
    "stale_distance",
    "regret",
    *notes.COLUMNS,
)

ROW, MOST = 0.4, 24
"""Inches of an arm's row; rows that are drawn at most."""


def data(results: Path) -> pd.DataFrame:
    """One row an epoch of every finished trial that has a reference, with the columns `COLUMNS`.

    The reference is the trial with the same seed and the same settings but for the schedule that
    searched at every epoch from 1 on; `reference` is its arm. `distance` is that of the trial's
    plan in force to the plan that the reference found at that epoch (`Plan.distance`, 0 to 1; 1
    while nothing is compressed). `stale_distance` and `regret` are those of the trial's search
    epochs on the plans of the reference (`adacomcat.schedule.oracle`: sums over epochs, the same in
    all rows of a trial); `regret` is nan for a trial without a search. A trial without a
    reference is one row without an epoch; an arm without a finished trial one without a seed.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `load.epochs`, no trial has finished, or none searched at every epoch.
    """
    trials = notes.sound(results)
    done = load.finished(trials)
    epochs = load.epochs(results).reindex(columns=["trial_id", "phase", "epoch"])
    searches = load.searches(results)
    traces = {
        trial_id: _Trace(
            epochs.loc[(epochs["trial_id"] == trial_id) & (epochs["phase"] == "search"), "epoch"]
            .astype(int)
            .tolist(),
            searches[searches["trial_id"] == trial_id].to_dict("records"),
            plan,
        )
        for trial_id, plan in zip(done["trial_id"], done["plan"], strict=True)
    }
    chosen = _references(results, done, traces)
    require(
        bool(chosen),
        str(results),
        "no finished trial that searched at every epoch",
        "a study with one, of the settings of another arm (fixed_1)",
    )
    rows: list[dict[str, Any]] = []
    for _, trial in done.iterrows():
        head = {"arm": trial["arm"], "seed": trial["seed"]}
        reference = chosen.get(trial["trial_id"])
        if reference is None:
            rows.append(head)
            continue
        head["reference"] = done.loc[done["trial_id"] == reference, "arm"].iloc[0]
        rows += [head | row for row in _compare(traces[trial["trial_id"]], traces[reference])]
    found = pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in _OF_ARM])
    table = notes.standing(trials).merge(found, on="arm", how="left")
    numbers = ["seed", "epoch", "distance", "searches", "stale_distance", "regret"]
    table[numbers] = table[numbers].astype(float)
    table["searched"] = table["searched"].eq(True)
    return table[list(COLUMNS)]


_OF_ARM = ("label", "workload", *notes.COLUMNS)


class _Trace:
    """The plans of a trial: in force at each epoch, and found by each search."""

    def __init__(
        self, epochs: Sequence[int], searches: Sequence[Mapping[str, Any]], final: Mapping[str, Any]
    ) -> None:
        self.epochs = len(epochs)
        self.found = {int(search["epoch"]): _plan(search["plan"]) for search in searches}
        held = in_force(epochs, searches, final)
        self.held = {epoch: None if p is None else _plan(p) for epoch, p in held.items()}

    @property
    def searched_always(self) -> bool:
        return self.epochs > 1 and sorted(self.found) == list(range(1, self.epochs))


def _plan(decisions: Mapping[str, int | None]) -> Plan:
    # The trials of a study that are compared are of one method; its name plays no part.
    return Plan("recorded", decisions)


def _references(results: Path, done: pd.DataFrame, traces: Mapping[str, _Trace]) -> dict[str, str]:
    """Trial id -> that of the trial that it is compared with."""
    records = load.usable(results)
    by_settings: dict[str, str] = {}
    keys = {}
    for trial_id in done["trial_id"]:
        config = {k: v for k, v in records[trial_id]["config"].items() if k != "schedule"}
        keys[trial_id] = json.dumps([int(records[trial_id]["seed"]), config], sort_keys=True)
    # A fixed schedule before one that only came to search always.
    always = [trial_id for trial_id in done["trial_id"] if traces[trial_id].searched_always]
    always.sort(key=lambda t: records[t]["config"].get("schedule", {}).get("kind") != "fixed")
    for trial_id in always:
        by_settings.setdefault(keys[trial_id], trial_id)
    return {t: by_settings[key] for t, key in keys.items() if key in by_settings}


def _compare(trace: _Trace, reference: _Trace) -> list[dict[str, Any]]:
    """One row an epoch that the reference searched at."""
    plans, searched = reference.found, sorted(trace.found)
    whole = {
        "searches": len(searched),
        "stale_distance": stale_distance(plans, searched, reference.epochs),
        "regret": regret(plans, searched, reference.epochs) if searched else None,
    }
    rows = []
    for epoch, plan in plans.items():
        held = trace.held[epoch]
        apart = 1.0 if held is None else held.distance(plan)
        rows.append({"epoch": epoch, "searched": epoch in searched, "distance": apart, **whole})
    return rows


def axes(table: pd.DataFrame) -> NDArray[Any]:
    """Two panels with the same rows, an arm each."""
    names = [style.short(label) for label in _drawn(table)["label"].unique()]
    return style.new_figure(
        1,
        2,
        height=max(ROW * len(names), 1.2),
        widths=(2.3, 1),
        across=0.3,
        top=0.6,
        left=max(style.room(names), 0.6),
        right=0.85,
        width=6.3 + style.room(names),
        note=_note(table),
    )


def draw(panels: NDArray[Any], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`."""
    over_time, cost = panels[0]
    shown = _drawn(table)
    _draw_distances(over_time, shown)
    _draw_regrets(cost, shown)
    workload = table["workload"].iloc[0]
    style.title(over_time, f"Staleness of the plan in force, workload {workload}", pad=20)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table for a terminal: an arm a line, means over seeds."""
    trials = _trials(table)
    shown = trials.groupby("arm", sort=False).agg(
        label=("label", "first"),
        seeds=("seed", "nunique"),
        searches=("searches", "mean"),
        distance=("distance", "mean"),
        stale_distance=("stale_distance", "mean"),
        regret=("regret", "mean"),
        largest_regret=("regret", "max"),
    )
    return f"{shown.round(4).to_string(index=False)}\n{notes.write([], table)}"


def _trials(table: pd.DataFrame) -> pd.DataFrame:
    """One row a trial that was compared; `distance` is its mean over the epochs."""
    known = table.dropna(subset=["epoch"])
    keys = ["arm", "label", "seed", "searches", "stale_distance", "regret"]
    return known.groupby(keys, sort=False, dropna=False)["distance"].mean().reset_index()


def _drawn(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the arms that have something to show, the first `MOST` of them."""
    known = table.dropna(subset=["epoch"])
    return known[known["arm"].isin(known["arm"].unique()[:MOST])]


def _scale(shown: pd.DataFrame) -> float:
    """The distance that a whole row stands for: the largest mean of an arm that searched."""
    means = shown[shown["searches"] > 0].groupby(["arm", "epoch"])["distance"].mean()
    top = float(means.max()) if len(means) else 0.0
    return top if top > 0 else float(max(shown["distance"].max(), 0.01))


def _draw_distances(ax: Axes, shown: pd.DataFrame) -> None:
    """A row an arm: the mean distance over seeds as an area, searches as marks below it."""
    top, arms = _scale(shown), list(shown["arm"].unique())
    first, last = shown["epoch"].min(), shown["epoch"].max()
    for row, arm in enumerate(arms):
        of_arm, look, base = shown[shown["arm"] == arm], style.look(arm), -float(row)
        mean = of_arm.groupby("epoch")["distance"].mean()
        level = base + 0.72 * np.minimum(mean / top, 1.0)
        ends = np.append(mean.index, mean.index[-1] + 1) - 0.5
        steps = np.append(level, level.iloc[-1])
        ax.fill_between(
            ends,
            base,
            steps,
            step="post",
            color=look.color,
            linewidth=0,
            alpha=0.55,
            gid=f"distance:{arm}",
        )
        ax.plot(ends, steps, drawstyle="steps-post", color=style.INK, linewidth=0.9)
        if mean.max() > top * 1.0001:
            ax.annotate(
                f"up to {mean.max():.2g}, cut off",
                (last + 0.5, base + 0.36),
                xytext=(-3, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=7,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
        share = of_arm.groupby("epoch")["searched"].mean()
        share = share[share > 0]
        ax.scatter(
            share.index,
            np.full(len(share), base - 0.1),
            s=14 * share,
            marker="^",
            color=style.INK,
            linewidth=0,
            gid=f"searches:{arm}",
            zorder=3,
        )
    ax.set_xlim(first - 0.5, last + 0.5)
    ax.set_ylim(-len(arms) + 0.75, 0.85)
    names = shown.drop_duplicates("arm")["label"].map(style.short)
    ax.set_yticks(-np.arange(len(arms)) + 0.25, names.tolist(), fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch of the search phase")
    ax.annotate(
        f"distance to the plan of an every-epoch trial; height of a row: {top:.2g}",
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        fontsize="small",
        color=style.QUIET,
    )


def _draw_regrets(ax: Axes, shown: pd.DataFrame) -> None:
    """In the same rows: a dot a seed, and their mean as a line."""
    trials, arms = _trials(shown), list(shown["arm"].unique())
    top = float(trials["regret"].max()) if trials["regret"].notna().any() else 0.0
    for row, arm in enumerate(arms):
        regrets, look = trials.loc[trials["arm"] == arm, "regret"].dropna(), style.look(arm)
        middle = 0.25 - row
        if regrets.empty:
            ax.annotate(
                "no search",
                (0, middle),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=style.QUIET,
            )
            continue
        stale = trials.loc[trials["arm"] == arm, "stale_distance"].mean()
        ax.annotate(
            f"{stale:.2f}",
            (1, middle),
            xycoords=("axes fraction", "data"),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
        aside = 0.16 * (np.arange(len(regrets)) - (len(regrets) - 1) / 2) / max(len(regrets) / 4, 1)
        ax.plot(
            [regrets.mean()] * 2,
            [middle - 0.36, middle + 0.36],
            color=style.INK,
            linewidth=1.6,
            zorder=2,
        )
        ax.plot(
            regrets,
            middle - aside,
            linestyle="none",
            marker=look.marker,
            zorder=3,
            clip_on=False,
            markersize=0.6 * look.size,
            color=look.color,
            markeredgecolor=style.INK,
            markeredgewidth=0.5,
            gid=f"regret:{arm}",
        )
    ax.set_xlim(-0.04 * (top or 1), 1.08 * (top or 1))
    ax.set_ylim(-len(arms) + 0.75, 0.85)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.axvline(0, color=style.QUIET, linewidth=0.8, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    ax.set_xlabel("sum of distances")
    for text, x in (("regret against the oracle", 0), ("stale", 1)):
        ax.annotate(
            text,
            (x, 1),
            xycoords="axes fraction",
            xytext=(12 * x, 5),
            textcoords="offset points",
            fontsize="small",
            color=style.QUIET,
        )


def _note(table: pd.DataFrame) -> str:
    shown = _drawn(table)
    known = table.dropna(subset=["epoch"])
    seeds = shown.groupby("arm")["seed"].nunique()
    count = notes.count(seeds, "seed")
    labels = table.drop_duplicates("arm").set_index("arm")["label"]
    names = [style.short(labels[arm]) for arm in known["reference"].unique()]
    references = "; ".join(names) if len(names) < 3 else f"{names[0]}, and so on"
    parts = [
        f"Left: distance of a trial's own plan in force to the plan that the trial that always"
        f" searched ({references}) found then; same seed and settings, mean over {count}"
        " (areas). Triangles: searches, smaller where not all seeds searched.",
        "Right: how much staler the trial's epochs of search are, on the plans of that other"
        " trial, than the best ones of the same number; a mark a seed, upright line: mean."
        " Stale: the mean of that sum itself, which tells few searches from many.",
    ]
    bare = table[table["seed"].notna() & table["epoch"].isna()]
    if len(bare):
        arms = ", ".join(style.short(label) for label in bare["label"].unique())
        parts.append(f"No trial that searched every epoch to compare with: {len(bare)} of {arms}.")
    more = known["arm"].nunique() - shown["arm"].nunique()
    parts.append(f"{more} further arms: see the CSV." if more else "")
    return notes.write(parts, table)


if __name__ == "__main__":
    raise SystemExit(main())
