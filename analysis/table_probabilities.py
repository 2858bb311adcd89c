"""Commitment of the logits: the probability of each site's likeliest rank over the searches.

`python analysis/table_probabilities.py RESULTS`
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from adacomcat.checks import require
from analysis import command, load, notes, plans, summary

QUESTION = "Do the logits commit to a rank, and which ranks does the search leave?"

COLUMNS = (
    *"arm label workload seed epoch search last temperature site block kind rank".split(),
    *"candidates top_rank top_probability top_probability_plain".split(),
    *notes.COLUMNS,
)

LEGEND = (
    "Probability of a site's likeliest rank, median over sites and seeds (10th to 90th "
    "percentile). In the search: at its temperature, which falls and so sharpens any logits. "
    "Temperature 1: the logits by themselves, which decide. No Gumbel noise in either. Even odds: "
    "of all candidates at the first search. Alone: sites with one candidate left, whose "
    "probability is 1."
)


def data(results: Path) -> pd.DataFrame:
    """One row per site and search of every finished trial, with the columns `COLUMNS`.

    `rank` is what the plan of the search gave the site; `last` marks the rows of a trial's last
    search. `candidates` counts those that the search could choose among: where later searches
    truncate the factors in force (`method.source: current`), none above the rank before, but the
    smallest. `top_probability` is the softmax of their logits at the `temperature` of the search
    for the likeliest of them, `top_rank`; `top_probability_plain` the same at temperature 1: the
    logits by themselves, which decide. Both are without Gumbel noise, and nan where no logits were
    recorded. An arm without a search is one row without a seed.

    Raises:
        ValueError: as `load.searches`, no trial has finished, or none that has searched.
    """
    trials = notes.sound(results)
    records = load.usable(results)
    searches = load.finished(load.searches(results))
    require(len(searches) > 0, f"{results}: searches", 0, "a finished trial that searched")
    rows: list[dict[str, Any]] = []
    for _, trial in load.finished(trials).iterrows():
        method = records[trial["trial_id"]]["config"].get("method", {})
        of_trial = searches[searches["trial_id"] == trial["trial_id"]].to_dict("records")
        head = {"arm": trial["arm"], "seed": trial["seed"]}
        rows += [head | row for row in _rows(of_trial, method.get("source", "current"))]
    return notes.attach(trials, pd.DataFrame(rows), COLUMNS)


def _rows(searches: Sequence[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    """One row per search and site of a trial."""
    rows = []
    before: plans.RankPlan = {}
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
                    **plans.place(site),
                    "rank": rank,
                    **(likeliest(logits, search.get("temperature"), limit) if logits else {}),
                }
            )
        before = search["plan"]
    return rows


def likeliest(
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


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per arm for its first searches, and one for its last; then the ranks at the end."""
    known, lines = table.dropna(subset=["seed"]), []
    for _, of_arm in known.groupby("arm", sort=False):
        first = of_arm[of_arm["search"] == of_arm["search"].min()]
        for name, rows in (("first", first), ("last", of_arm[of_arm["last"]])):
            lines.append(
                {
                    "arm": of_arm["label"].iloc[0],
                    "seeds": of_arm["seed"].nunique(),
                    "search": name,
                    "in the search": _quantiles(rows["top_probability"]),
                    "temperature 1": _quantiles(rows["top_probability_plain"]),
                    "even odds": summary.texts([1 / first["candidates"].max()], ".3f")[0],
                    "alone": f"{(rows['candidates'] == 1).mean():.0%}",
                }
            )
    ranks = known[known["last"]].pivot_table(
        index="label", columns="kind", values="rank", sort=False
    )
    ranks = ranks.map("{:.1f}".format).rename_axis(index="arm", columns=None).reset_index()
    return {
        "": pd.DataFrame(lines),
        "Ranks after the last search, means over sites and seeds": ranks,
    }


def _quantiles(values: pd.Series) -> str:
    low, middle, high = values.quantile([0.1, 0.5, 0.9])
    return "" if np.isnan(middle) else f"{middle:.3f} ({low:.3f} to {high:.3f})"


def note(table: pd.DataFrame) -> str:
    """Note below the table, as one paragraph."""
    bare = table["top_probability_plain"].isna().all()
    return notes.write([LEGEND, "No logits were recorded." if bare else ""], table)


EXHIBITS = (command.Exhibit("table_probabilities", QUESTION, data, summarize, note),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
