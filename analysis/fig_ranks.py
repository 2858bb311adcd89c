"""Ranks of a trial over its search phase by site, and the changes of each search.

`python analysis/fig_ranks.py RESULTS [--arm ARM] [--seed SEED]`
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adacomcat.checks import require
from analysis import command, load, notes, plans, style
from study.store import open_results

QUESTION = "Do ranks still move after the first search, and where in the model?"

COLUMNS = (
    *"arm label workload seed epoch searched site block kind rank largest share changed".split(),
    *notes.COLUMNS,
)


def data(results: Path, arm: str | None = None, seed: int | None = None) -> pd.DataFrame:
    """One row per site and epoch of the search phase of one finished trial, with `COLUMNS`.

    `rank` is that of the plan in force while the epoch trained, nan where the site is dense.
    `largest` is the largest rank of its kind in the trial, candidates included where they were
    recorded, and `share` is `rank / largest`. `changed` says that a search at this epoch gave the
    site another rank than it had; a first search changes all sites. `block` is nan for a site
    outside of the blocks. Counts of what was left out are those of the whole arm.

    Args:
        results: a results directory.
        arm: its name; None: `adaptive`, or else the first arm with a finished trial that searched,
            or else the first with a finished one.
        seed: of the trial; None: the first that has finished.

    Raises:
        ValueError: as `load.trials`, no trial has finished, or not that of the arm and the seed.
    """
    trials = notes.sound(results)
    trial = _choose(trials, arm, seed)
    stored = open_results(results)
    trace, searches = (read(trial["trial_id"]) for read in (stored.epochs, stored.searches))
    epochs = [int(row["epoch"]) for row in trace if row["phase"] == "search"]
    require(len(epochs) > 0, f"{trial['trial_id']}: epochs", 0, "a trial with a search phase")
    held = plans.in_force(epochs, searches, trial["plan"])
    sites = list(next((plan for plan in held.values() if plan), {}))
    ranks = pd.DataFrame(
        {epoch: plan or {} for epoch, plan in held.items()}, index=sites, dtype=float
    )
    before = ranks.shift(axis="columns")
    found = [int(search["epoch"]) for search in searches]
    changed = ranks.ne(before) & (ranks.notna() | before.notna())
    changed[found[:1]] = True
    table = ranks.rename_axis("site").melt(ignore_index=False, var_name="epoch", value_name="rank")
    table["changed"] = changed.melt()["value"].to_numpy() & table["epoch"].isin(found)
    table = table.reset_index().assign(arm=trial["arm"], seed=trial["seed"])
    places = pd.DataFrame([plans.place(site) for site in table["site"]])
    table = table.assign(searched=table["epoch"].isin(found), **places)
    largest = _largest(searches, [plan for plan in held.values() if plan])
    table["largest"] = table["kind"].map(largest)
    table["share"] = table["rank"] / table["largest"]
    return notes.attach(trials[trials["arm"] == trial["arm"]], table, COLUMNS)


def _choose(trials: pd.DataFrame, arm: str | None, seed: int | None) -> pd.Series:
    """The row of the trial to draw."""
    done = load.finished(trials)
    done = done[done["plan"].notna()]
    require(len(done) > 0, "trials", "none with a plan", "a finished trial with the plan it left")
    if arm is None:
        searching = done.loc[done["searches"].astype(float) > 0, "arm"]
        arm = next(iter([*searching[searching == "adaptive"], *searching, *done["arm"]]))
    allowed = f"finished ones: {', '.join(done['arm'].unique())}"
    require(arm in set(done["arm"]), "arm", arm, allowed)
    of_arm = done[done["arm"] == arm]
    seed = int(of_arm["seed"].iloc[0]) if seed is None else seed
    allowed = f"finished ones of {arm}: {', '.join(map(str, of_arm['seed']))}"
    require(seed in set(of_arm["seed"]), "seed", seed, allowed)
    return of_arm[of_arm["seed"] == seed].iloc[0]


def _largest(
    searches: Sequence[Mapping[str, Any]], held: Sequence[plans.RankPlan]
) -> dict[str, int]:
    """Kind of a site -> the largest rank among its candidates and in the plans."""
    ranks = [entry for plan in held for entry in plan.items()]
    for search in searches:
        logits = search.get("logits") or {}
        ranks += [(site, int(rank)) for site, candidates in logits.items() for rank in candidates]
    kinds: dict[str, int] = {}
    for site, rank in ranks:
        kind = plans.place(site)["kind"]
        kinds[kind] = max(kinds.get(kind, 1), rank or 1)
    return kinds


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `data` into an empty figure: a heat map, and changes per search below."""
    sites = table["site"].nunique()
    high = float(np.clip(0.155 * sites, 1.0, 9.0))
    figure.set_size_inches(7.2, high + 2.3)
    ranks, changes = figure.subplots(2, height_ratios=[high, 0.9])
    _draw_ranks(ranks, table, fontsize=min(6.5, 50 * high / sites))
    _draw_changes(changes, table)
    trial = table.iloc[0]
    name = f"Ranks of {style.short(trial['label'])}, seed {trial['seed']:.0f}"
    style.title(figure, f"{name}, workload {trial['workload']}")


def _draw_ranks(ax: Axes, table: pd.DataFrame, fontsize: float) -> None:
    """A cell per site and epoch, its rank written where it begins to hold."""
    wide = table.assign(epoch=table["epoch"].astype(int)).set_index(["site", "epoch"])
    share, rank = (wide[name].unstack().loc[table["site"].unique()] for name in ("share", "rank"))
    begins = rank.where(rank.ne(rank.shift(axis="columns")))
    seaborn.heatmap(
        share,
        ax=ax,
        cmap="Blues",
        vmin=0,
        vmax=1,
        annot=begins.map(lambda r: "" if np.isnan(r) else f"{r:.0f}"),
        fmt="",
        annot_kws={"fontsize": fontsize},
        yticklabels=True,
        cbar_kws={"label": "share of the largest", "shrink": 0.5},
        rasterized=True,
    )
    ax.set_facecolor("#f0f0f0")
    ax.grid(visible=False)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", labelsize=fontsize, length=0)
    blocks = table.drop_duplicates("site")["block"].fillna(-1).to_numpy()
    ax.hlines(np.flatnonzero(np.diff(blocks)) + 1, *ax.get_xlim(), color="white", linewidth=1.6)


def _draw_changes(ax: Axes, table: pd.DataFrame) -> None:
    """Number of sites that each search changed."""
    searched = table[table["searched"]].groupby("epoch")["changed"].sum()
    color = style.look(table["arm"].iloc[0]).color
    bars = ax.bar(searched.index, searched, width=0.7, color=color, edgecolor=style.INK)
    ax.bar_label(bars, fontsize=7, padding=1)
    ax.set_xlim(table["epoch"].min() - 0.5, table["epoch"].max() + 0.5)
    ax.set_ylim(0, 1.4 * max(searched.max() if len(searched) else 0, 1))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch of the search phase", ylabel="sites\nchanged")
    ax.grid(visible=False, axis="x")


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    count, searched = table["site"].nunique(), table.loc[table["searched"], "epoch"]
    later = table[table["changed"] & (table["epoch"] > searched.min())]["site"].nunique()
    parts = [
        f"Rows: the {count} sites; a number is the rank from that epoch on; gray: still dense.",
        f"{notes.count([searched.nunique()], 'search', 'searches')}; those after the first changed "
        f"{later} of {count} sites."
        if len(searched)
        else "No search: one plan from epoch 1 on.",
        "Largest: of the candidates and ranks of the same kind of site in this trial.",
    ]
    return notes.write(parts, table)


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per site: its rank from search to search."""
    at = sorted(table.loc[table["searched"], "epoch"].unique()) or [table["epoch"].max()]
    chosen = table[table["epoch"].isin(at)].assign(epoch=table["epoch"].map("{:.0f}".format))
    wide = chosen.pivot(index="site", columns="epoch", values="rank")
    wide = wide.loc[table["site"].unique(), [f"{epoch:.0f}" for epoch in at]]
    shown = wide.map(lambda r: "dense" if np.isnan(r) else f"{r:.0f}").rename_axis(columns=None)
    trial = table.iloc[0]
    caption = f"{trial['label']}, seed {trial['seed']:.0f}: ranks after the searches of each epoch"
    return {caption: shown.reset_index()}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arm", help="whose trial is drawn (default: adaptive)")
    parser.add_argument("--seed", type=int, help="of the trial (default: the first)")


EXHIBITS = (command.Exhibit("ranks", QUESTION, data, summarize, note, draw, _options),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
