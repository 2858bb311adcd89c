"""Do the logits commit? The probability of each site's likeliest rank over the searches, and the
ranks per block that they end with.

`python analysis/fig_probabilities.py RESULTS`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray
from scipy.special import softmax

from adacomcat.checks import require
from analysis import command, load, notes, style
from analysis.fig_ranks import place

NAME = "probabilities"

COLUMNS = (
    "arm",
    "label",
    "workload",
    "seed",
    "epoch",
    "search",
    "last",
    "temperature",
    "site",
    "block",
    "kind",
    "rank",
    "candidates",
    "top_rank",
    "top_probability",
    "top_probability_plain",
    *notes.COLUMNS,
)

PANELS = 2
"""Arms that are drawn; all others are in the CSV."""

FIRST = ("adaptive", "fixed_1")
"""Arms that are drawn before others."""

KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "qk": ("#222222", "o"),
        "vo": ("#ffffff", "s"),
        "fc1": ("#6e6e6e", "^"),
        "fc2": ("#dddddd", "v"),
        "head": ("#a0a0a0", "D"),
    }
)
"""Kind of a site -> shade and marker; the hues are the arms'. Unknown ones look like the head."""

CURVES: Mapping[str, tuple[str, str, str, Any]] = MappingProxyType(
    {
        "top_probability": ("in the search", "#222222", "o", "-"),
        "top_probability_plain": ("temperature 1", "#ffffff", "s", (0, (4, 1.5))),
    }
)
"""Column -> name, shade of the marks, marker and line."""


def data(results: Path) -> pd.DataFrame:
    """One row a site and search of every finished trial, with the columns `COLUMNS`.

    `rank` is what the plan of the search gave the site; `last` marks the rows of a trial's last
    search. `candidates` counts those that the search could choose among: where later searches
    truncate the factors in force (`method.source: current`), none above the rank before, but the
    smallest. `top_probability` is the softmax of their logits at the `temperature` of the search
    for the likeliest of them, `top_rank`; `top_probability_plain` the same at temperature 1: the
    logits by themselves, which decide. Both are without Gumbel noise, and nan where no logits were
    recorded. An arm without a search is one row without a seed.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `load.searches`, no trial has finished, or none that has searched.
    """
    trials = notes.sound(results)
    done = load.finished(trials)
    records = load.usable(results)
    searches = load.finished(load.searches(results))
    require(len(searches) > 0, f"{results}: searches", 0, "a finished trial that searched")
    rows: list[dict[str, Any]] = []
    for _, trial in done.iterrows():
        method = records[trial["trial_id"]]["config"].get("method", {})
        of_trial = searches[searches["trial_id"] == trial["trial_id"]].to_dict("records")
        head = {"arm": trial["arm"], "seed": trial["seed"]}
        rows += [head | row for row in _rows(of_trial, method.get("source", "current"))]
    table = notes.standing(trials).merge(
        pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in _OF_ARM]), on="arm", how="left"
    )
    table["last"] = table["last"].eq(True)
    numbers = [c for c in COLUMNS if c not in _TEXTS]
    table[numbers] = table[numbers].astype(float)
    return table[list(COLUMNS)]


_OF_ARM = ("label", "workload", *notes.COLUMNS)
_TEXTS = ("arm", "last", "site", "kind", *_OF_ARM)


def _rows(searches: Sequence[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    """One row a search and site of a trial."""
    rows = []
    before: Mapping[str, int | None] = {}
    for number, search in enumerate(searches):
        for site, rank in search["plan"].items():
            logits = (search.get("logits") or {}).get(site)
            limit = before.get(site) if source == "current" else None
            rows.append(
                {
                    "epoch": search["epoch"],
                    "search": search["index"],
                    "last": number == len(searches) - 1,
                    "temperature": search.get("temperature"),
                    "site": site,
                    **place(site),
                    "rank": rank,
                    **(_likeliest(logits, search.get("temperature"), limit) if logits else {}),
                }
            )
        before = search["plan"]
    return rows


def _likeliest(
    logits: Mapping[str, float], temperature: float | None, limit: int | None
) -> dict[str, Any]:
    """The likeliest candidate of a site, at the temperature and at temperature 1.

    Args:
        logits: rank (a text, as JSON has it) -> logit.
        temperature: of the search.
        limit: the largest rank that the search could choose, but for the smallest; None: any.
    """
    ranks = sorted(map(int, logits))
    usable = [r for r in ranks if r == ranks[0] or limit is None or r <= limit]
    scores = np.array([logits[str(rank)] for rank in usable])
    hot = None if temperature is None else float(softmax(scores / temperature).max())
    return {
        "candidates": len(usable),
        "top_rank": usable[int(scores.argmax())],
        "top_probability": hot,
        "top_probability_plain": float(softmax(scores).max()),
    }


def axes(table: pd.DataFrame) -> NDArray[Any]:
    """A column an arm: probabilities above, if any were recorded, ranks below."""
    arms = _arms(table)
    rows = 2 if _has_probabilities(table) else 1
    return style.new_figure(
        rows,
        len(arms),
        height=2.35 * rows + 0.85 * (rows - 1),
        down=0.85,
        across=0.65,
        width=7.4 if len(arms) > 1 else 6.6,
        top=0.8,
        left=0.85,
        right=0.3,
        note=_note(table),
    )


def draw(panels: NDArray[Any], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`."""
    arms = _arms(table)
    highest = float(table.loc[table["last"] & table["arm"].isin(arms), "rank"].max())
    for column, arm in enumerate(arms):
        of_arm = table[table["arm"] == arm]
        if len(panels) > 1:
            _draw_probabilities(panels[0, column], of_arm)
        _draw_ranks(panels[-1, column], of_arm, highest)
        panels[0, column].annotate(
            style.short(of_arm["label"].iloc[0]),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 7),
            textcoords="offset points",
            fontsize="medium",
        )
    for column in range(1, len(arms)):
        for row in range(len(panels)):
            panels[row, column].set_ylabel("")
    what = "Do the logits commit" if len(panels) > 1 else "Ranks at the end"
    title = f"{what}? Workload" if len(panels) > 1 else f"{what}, workload"
    style.headline(panels[0, 0].figure, f"{title} {table['workload'].iloc[0]}")
    last = table[table["arm"].isin(arms) & table["last"]]
    _draw_legend(panels[-1, -1], {k: KINDS.get(k, KINDS["head"]) for k in last["kind"].unique()})
    if len(panels) > 1:
        marks = {name: (color, marker) for name, color, marker, _ in CURVES.values()}
        _draw_legend(panels[0, -1], marks, above=18)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table for a terminal: an arm a line, its first searches and its last ones."""
    lines = []
    for _, of_arm in table.dropna(subset=["seed"]).groupby("arm", sort=False):
        line: dict[str, Any] = {"arm": of_arm["label"].iloc[0], "seeds": of_arm["seed"].nunique()}
        first = of_arm[of_arm["search"] == of_arm["search"].min()]
        for name, rows in (("first", first), ("last", of_arm[of_arm["last"]])):
            line[f"{name} search"] = f"{rows['top_probability'].median():.3f}"
            line[f"{name}, temperature 1"] = f"{rows['top_probability_plain'].median():.3f}"
        lines.append(line)
    head = "median over sites and seeds of the likeliest rank's probability"
    return f"{head}\n{pd.DataFrame(lines).to_string(index=False)}\n{notes.write([], table)}"


def _has_probabilities(table: pd.DataFrame) -> bool:
    drawn = table[table["arm"].isin(_arms(table))]
    return bool(drawn["top_probability_plain"].notna().any())


def _arms(table: pd.DataFrame) -> list[str]:
    """The arms that are drawn, at most `PANELS`."""
    known = table.dropna(subset=["seed"])["arm"].unique().tolist()
    return [*(arm for arm in FIRST if arm in known), *(a for a in known if a not in FIRST)][:PANELS]


def _draw_probabilities(ax: Axes, of_arm: pd.DataFrame) -> None:
    """Medians over sites and seeds with bands from the 10th to the 90th percentile."""
    for number, (column, (_, color, marker, line)) in enumerate(CURVES.items()):
        known = of_arm.dropna(subset=[column])
        if known.empty:
            continue
        low, middle, high = (known.groupby("epoch")[column].quantile(q) for q in (0.1, 0.5, 0.9))
        # Side by side, so that neither bar hides the other.
        at = middle.index + 0.12 * number
        if len(middle) > 1 and number == 0:
            ax.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        ax.plot(
            at,
            middle,
            color=style.INK,
            linestyle=line,
            marker=marker,
            markersize=3.5,
            markerfacecolor=color,
            markeredgewidth=0.7,
            linewidth=1.2,
            gid=column,
        )
        ax.vlines(at, low, high, color=style.INK, linewidth=0.7, linestyle=line)
    even = 1 / of_arm["candidates"].max()
    ax.axhline(even, color=style.QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
    ax.annotate(
        f"even odds of {of_arm['candidates'].max():.0f}",
        (1, even),
        va="bottom",
        ha="right",
        xycoords=("axes fraction", "data"),
        fontsize=7,
        color=style.QUIET,
    )
    ax.set_ylim(0, 1.05)
    first, last = of_arm["epoch"].min(), of_arm["epoch"].max()
    ax.set_xlim(first - 0.6, max(last, first + 1) + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch of the search")
    ax.set_ylabel("probability of the\nlikeliest rank")


def _draw_ranks(ax: Axes, of_arm: pd.DataFrame, highest: float) -> None:
    """The last plans: a mark a kind and block, mean over seeds, bars from least to most."""
    last = of_arm[of_arm["last"]].dropna(subset=["rank"])
    blocks = sorted(last["block"].dropna().unique())
    outside = last.loc[last["block"].isna(), "kind"].unique().tolist()
    places = {
        **{block: float(i) for i, block in enumerate(blocks)},
        **{kind: len(blocks) + i for i, kind in enumerate(outside)},
    }
    kinds = last["kind"].unique().tolist()
    inner = [kind for kind in kinds if kind not in outside]
    for kind in kinds:
        of_kind = last[last["kind"] == kind]
        at = of_kind["block"].where(of_kind["block"].notna(), kind).map(places)
        ranks = of_kind["rank"].groupby(at.to_numpy()).agg(["mean", "min", "max"])
        aside = 0.17 * (inner.index(kind) - (len(inner) - 1) / 2) if kind in inner else 0.0
        x = ranks.index.to_numpy(float) + aside
        color, marker = KINDS.get(kind, KINDS["head"])
        ax.vlines(x, ranks["min"], ranks["max"], color=style.INK, linewidth=0.9, zorder=2)
        ax.plot(
            x,
            ranks["mean"],
            linestyle="none",
            marker=marker,
            markersize=5,
            color=color,
            zorder=3,
            markeredgecolor=style.INK,
            markeredgewidth=0.6,
            gid=f"rank:{kind}",
        )
    ax.set_ylim(0, 1.08 * highest)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(-0.6, len(places) - 0.4)
    step = max(1, -(-len(blocks) // 12))
    ticks = [*range(0, len(blocks), step), *range(len(blocks), len(places))]
    names = [*(f"{block:.0f}" for block in blocks[::step]), *outside]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.set_xticklabels(names)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("block")
    ax.set_ylabel("rank at the end")


def _draw_legend(ax: Axes, looks: Mapping[str, tuple[str, str]], above: float = 0.0) -> None:
    """What marks mean (name -> color and marker), in a line some points above the axes."""
    marks = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            markersize=5,
            color=color,
            markeredgecolor=style.INK,
            markeredgewidth=0.6,
        )
        for color, marker in looks.values()
    ]
    high = ax.get_window_extent().height / ax.figure.dpi * 72
    ax.legend(
        marks,
        list(looks),
        loc="lower right",
        bbox_to_anchor=(1.02, 1.0 + above / high),
        ncols=len(marks),
        frameon=False,
        fontsize="small",
        handletextpad=0.1,
        columnspacing=0.9,
        borderaxespad=0.1,
    )


def _note(table: pd.DataFrame) -> str:
    arms = _arms(table)
    drawn = table[table["arm"].isin(arms)]
    seeds = drawn.groupby("arm")["seed"].nunique()
    count = notes.count(seeds, "seed")
    parts = []
    if _has_probabilities(table):
        parts.append(
            "Above: the likeliest rank of a site; median over sites and the seeds that searched"
            " then, bars (and the band) from the 10th to the 90th percentile. In the search: at its"
            " temperature, which falls and so sharpens any logits. Temperature 1: the logits by"
            " themselves, which decide. No Gumbel noise in either."
        )
        last = drawn[drawn["last"]]
        alone = (last["candidates"] == 1).sum() / last["candidates"].notna().sum()
        parts.append(
            f"Ranks can only fall here, and a lone candidate has probability 1: {alone:.0%} of the"
            " sites at the last search."
            if alone
            else ""
        )
        parts.append(f"Below: ranks after the last search, mean over {count}, bars: range.")
    else:
        parts.append(f"Ranks after the last search, mean over {count}, bars: range.")
        parts.append("No logits were recorded: no probabilities.")
    more = table.dropna(subset=["seed"])["arm"].nunique() - len(arms)
    parts.append(f"{more} further arms: see the CSV." if more else "")
    return notes.write(parts, table)


if __name__ == "__main__":
    raise SystemExit(main())
