"""The ranks of a trial over its search phase, site by site, and how many each search changed.

`python analysis/fig_ranks.py RESULTS [--arm ARM] [--seed SEED]`
"""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adacomcat.checks import require
from analysis import command, load, notes, style
from study.store import Results

NAME = "ranks"

COLUMNS = (
    "arm",
    "label",
    "workload",
    "seed",
    "epoch",
    "searched",
    "site",
    "block",
    "kind",
    "rank",
    "largest",
    "share",
    "changed",
    *notes.COLUMNS,
)

GAP = 0.45
"""Between two blocks, in rows."""
ROW, TALLEST = 0.155, 7.6
"""Inches: of a row, and of all rows at most."""


def data(results: Path, arm: str | None = None, seed: int | None = None) -> pd.DataFrame:
    """One row a site and epoch of the search phase of one finished trial, with `COLUMNS`.

    `rank` is that of the plan in force while the epoch trained, nan where the site is dense.
    `largest` is the site's largest candidate; where no search recorded its candidates, the largest
    rank that a site of its kind has in the trial. `share` is `rank / largest`. `changed` says that
    a search at this epoch gave the site another rank than it had; a first search changes all
    sites. `block` is nan for a site outside of the blocks. Counts of what was left out are those
    of the whole arm.

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
    stored = Results(results.resolve())
    trace = stored.epochs(trial["trial_id"])
    epochs = [int(row["epoch"]) for row in trace if row["phase"] == "search"]
    require(len(epochs) > 0, f"{trial['trial_id']}: epochs", 0, "a trial with a search phase")
    searches = stored.searches(trial["trial_id"])
    plans = in_force(epochs, searches, trial["plan"])
    largest = _largest(searches, [plan for plan in plans.values() if plan])
    searched = {int(search["epoch"]) for search in searches}
    rows, before = [], None
    for epoch in epochs:
        plan = plans[epoch]
        for site in largest:
            rank, old = (p[site] if p else None for p in (plan, before))
            rows.append(
                {
                    "arm": trial["arm"],
                    "seed": trial["seed"],
                    "epoch": epoch,
                    "searched": epoch in searched,
                    "site": site,
                    **place(site),
                    "rank": rank,
                    "largest": largest[site],
                    "share": None if rank is None else rank / largest[site],
                    "changed": epoch in searched and (before is None or rank != old),
                }
            )
        before = plan
    table = pd.DataFrame(rows).merge(notes.standing(trials), on="arm")
    table[["block", "rank", "share"]] = table[["block", "rank", "share"]].astype(float)
    return table[list(COLUMNS)]


def in_force(
    epochs: Sequence[int], searches: Sequence[Mapping[str, Any]], final: Mapping[str, Any]
) -> dict[int, Mapping[str, int | None] | None]:
    """The plan under which each epoch trained: epoch -> site -> rank; None while all is dense.

    A search at the start of an epoch rules that epoch already. A trial that never searches has its
    one plan from epoch 1 on, where the others have their first search (`adacomcat.training`).

    Args:
        epochs: of the search phase.
        searches: the trial's rows, with `epoch` and `plan`, in their order.
        final: the plan that the trial ended with.
    """
    found = {int(search["epoch"]): search["plan"] for search in searches} or {1: final}
    plans, plan = {}, None
    for epoch in epochs:
        plan = found.get(epoch, plan)
        plans[epoch] = plan
    return plans


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
    searches: Sequence[Mapping[str, Any]], plans: Sequence[Mapping[str, int | None]]
) -> dict[str, int]:
    """Site -> its largest candidate, or what stands for it; the sites in the plan's order."""
    sites = list(plans[0]) if plans else []
    candidates: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for search in searches:
        for site, logits in (search.get("logits") or {}).items():
            candidates[site] = max(map(int, logits))
    for plan in plans:
        for site, rank in plan.items():
            kinds[place(site)["kind"]] = max(kinds.get(place(site)["kind"], 1), rank or 1)
    return {site: candidates.get(site, kinds[place(site)["kind"]]) for site in sites}


def place(site: str) -> dict[str, Any]:
    """Block and kind of a site: `blocks.3.qk` is the qk of block 3, `head` of none."""
    parts = site.split(".")
    if len(parts) == 3 and parts[0] == "blocks" and parts[1].isdecimal():
        return {"block": int(parts[1]), "kind": parts[2]}
    return {"block": None, "kind": site}


def axes(table: pd.DataFrame) -> NDArray[Any]:
    """A panel for the ranks, as high as its sites need, and a small one for the changes."""
    rows = float(_levels(table).max()) + 1
    high = min(ROW * rows, TALLEST)
    return style.new_figure(
        2,
        1,
        height=high + 0.3 + 0.9,
        heights=(high, 0.9),
        down=0.3,
        top=0.34 + 0.18 * (1 + _title(table).count("\n")),
        left=1.05,
        right=0.75,
        note=_note(table),
    )


def draw(panels: NDArray[Any], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`."""
    ranks, changes = panels[:, 0]
    _draw_ranks(ranks, table)
    _draw_changes(changes, table)
    first, last = table["epoch"].min(), table["epoch"].max()
    for ax in (ranks, changes):
        ax.set_xlim(first - 0.5, last + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ranks.tick_params(labelbottom=False)
    changes.set_xlabel("epoch of the search phase")
    ranks.set_title(_title(table), pad=14)


def _title(table: pd.DataFrame) -> str:
    trial = table.iloc[0]
    name = f"Ranks of {style.short(trial['label'])}, seed {trial['seed']}"
    return textwrap.fill(f"{name}, workload {trial['workload']}", width=64)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text, options=_options)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arm", help="whose trial is drawn (default: adaptive)")
    parser.add_argument("--seed", type=int, help="of the trial (default: the first)")


def as_text(table: pd.DataFrame) -> str:
    """The table for a terminal: a site a line, with its rank from search to search."""
    at = sorted(table.loc[table["searched"], "epoch"].unique())
    chosen = table[table["epoch"].isin(at or [table["epoch"].max()])]
    wide = chosen.pivot(index="site", columns="epoch", values="rank")
    wide = wide.loc[table["site"].unique()].map(lambda r: "dense" if np.isnan(r) else f"{r:.0f}")
    trial = table.iloc[0]
    head = f"{trial['label']}, seed {trial['seed']}: ranks after the searches of each epoch"
    return f"{head}\n{wide.to_string()}\n{notes.write([], table)}"


def _levels(table: pd.DataFrame) -> pd.Series:
    """Where each site stands: site -> row from the top, blocks apart by `GAP`."""
    sites = table.drop_duplicates("site")
    new = sites["block"].ne(sites["block"].shift()) & ~(
        sites["block"].isna() & sites["block"].shift().isna()
    )
    levels = [row + GAP * (count - 1) for row, count in enumerate(new.cumsum())]
    return pd.Series(levels, index=sites["site"])


def _shades() -> LinearSegmentedColormap:
    """Light to dark without a turn, so that it reads in grayscale."""
    blues = matplotlib.colormaps["Blues"](np.linspace(0.12, 0.95, 256))
    return LinearSegmentedColormap.from_list("ranks", blues)


def _draw_ranks(ax: Axes, table: pd.DataFrame) -> None:
    """A cell a site and epoch, its rank written where it begins to hold."""
    levels, shades = _levels(table), _shades()
    inches = ax.get_window_extent().height / ax.figure.dpi / (levels.max() + 1)
    width = ax.get_window_extent().width / ax.figure.dpi / table["epoch"].nunique()
    font = float(min(72 * inches * 0.62, 72 * width * 0.5, 7.0))
    wide = table.pivot(index="site", columns="epoch", values="share").loc[levels.index]
    left = np.asarray(wide.columns, dtype=float) - 0.5
    edges = np.append(left, left[-1] + 1)
    for site, level in zip(levels.index, levels.to_numpy(), strict=True):
        shares = np.ma.masked_invalid(wide.loc[[site]].to_numpy())
        ax.pcolormesh(
            edges,
            [level - 0.5, level + 0.5],
            shares,
            cmap=shades,
            vmin=0,
            vmax=1,
            linewidth=0,
            rasterized=True,
        )
        dense = wide.columns[wide.loc[site].isna()]
        ax.bar(
            dense,
            0.96,
            bottom=level - 0.48,
            width=1,
            color="white",
            edgecolor="#c8c8c8",
            hatch="/////",
            linewidth=0,
        )
    shown = table["rank"].notna() & (
        table["changed"] | table["rank"].ne(table.groupby("site")["rank"].shift())
    )
    first = table.loc[shown].groupby("site")["epoch"].min()
    for _, cell in table[shown].iterrows():
        level, later = levels[cell["site"]], cell["epoch"] > first[cell["site"]]
        if later:
            ax.plot(
                [cell["epoch"] - 0.5] * 2,
                [level - 0.5, level + 0.5],
                color=style.INK,
                linewidth=1.8,
                solid_capstyle="butt",
                gid=f"change:{cell['site']}",
            )
        if font >= 3.5:
            ax.text(
                cell["epoch"],
                level,
                f"{cell['rank']:.0f}",
                ha="center",
                va="center_baseline",
                fontsize=font,
                color="white" if cell["share"] > 0.55 else style.INK,
                fontweight="bold" if later else "normal",
            )
    _name_sites(ax, table, levels, inches)
    _mark_searches(ax, table)
    _draw_scale(ax, shades)


def _name_sites(ax: Axes, table: pd.DataFrame, levels: pd.Series, inches: float) -> None:
    sites = table.drop_duplicates("site").set_index("site")
    ax.set_ylim(levels.max() + 0.6, -0.6)
    ax.set_yticks(levels.to_numpy(), sites["kind"].tolist(), fontsize=min(72 * inches * 0.75, 7.5))
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for block, of_block in sites[sites["block"].notna()].groupby("block"):
        middle = levels[of_block.index].mean()
        ax.annotate(
            f"block {block:.0f}",
            (0, middle),
            xycoords=("axes fraction", "data"),
            xytext=(-30, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize="small",
        )


def _mark_searches(ax: Axes, table: pd.DataFrame) -> None:
    at = table.loc[table["searched"], "epoch"].unique()
    high = ax.get_window_extent().height / ax.figure.dpi
    ax.plot(
        at,
        np.full(len(at), 1 + 0.05 / high),
        transform=ax.get_xaxis_transform(),
        linestyle="none",
        marker=style.SEARCH,
        markersize=5,
        color=style.INK,
        clip_on=False,
        gid="searches",
    )


def _draw_scale(ax: Axes, shades: LinearSegmentedColormap) -> None:
    high = ax.get_window_extent().height / ax.figure.dpi
    place = ax.inset_axes((1.025, 0.0, 0.022, min(1.0, 1.6 / high)))
    bar = ax.figure.colorbar(ScalarMappable(Normalize(0, 1), shades), cax=place)
    bar.set_ticks([0, 0.5, 1])
    bar.set_label("share of the largest", fontsize="small")
    bar.ax.tick_params(labelsize="small")


def _draw_changes(ax: Axes, table: pd.DataFrame) -> None:
    """How many sites each search changed; the first, which had no plan to change, as a word."""
    searched = table[table["searched"]].groupby("epoch")["changed"].sum()
    later = searched.iloc[1:]
    ax.bar(
        later.index,
        later,
        width=0.6,
        color=style.look(table["arm"].iloc[0]).color,
        edgecolor=style.INK,
        linewidth=0.6,
        gid="changes",
    )
    top = max(float(later.max()) if len(later) else 0.0, 1.0)
    ax.set_ylim(0, 1.45 * top)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    written: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "center",
        "va": "bottom",
        "fontsize": 7,
    }
    if len(searched):
        ax.annotate("first", (searched.index[0], 0), xytext=(0, 2), rotation=90, **written)
    for epoch, count in later.items():
        ax.annotate(f"{count}", (epoch, count), xytext=(0, 1.5), **written)
    ax.set_ylabel("sites\nchanged")
    ax.grid(visible=False, axis="x")


def _note(table: pd.DataFrame) -> str:
    trial = table.iloc[0]
    count = table["site"].nunique()
    searched = sorted(table.loc[table["searched"], "epoch"].unique())
    noun = "search" if len(searched) == 1 else "searches"
    later = table[table["changed"] & (table["epoch"] != (searched or [None])[0])]
    parts = [
        f"Rows: the {count} sites; a number is the rank from that epoch on, hatched: still dense.",
        f"Triangles: {len(searched)} {noun}; a black edge: a search changed the rank"
        f" ({later['site'].nunique()} of {count} sites after the first search)."
        if searched
        else "No search: one plan from epoch 1 on.",
        "Largest: a site's largest candidate; where those are not recorded, the largest rank of"
        " its kind in this trial.",
    ]
    return notes.write(parts, table.assign(label=style.short(trial["label"])))


if __name__ == "__main__":
    raise SystemExit(main())
