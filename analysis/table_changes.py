"""Changes of ranks after the first search, by direction.

`python analysis/table_changes.py RESULTS`
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from adacomcat.checks import require
from analysis import command, load, notes
from analysis.plans import RankPlan

QUESTION = "Do ranks still change after the first search, and do they grow or shrink?"

COLUMNS = (
    *"arm label workload seeds settled searches changing grown shrunk last_change".split(),
    *notes.COLUMNS,
)

LEGEND = (
    "Means over seeds. Searches that changed: of those after the first, which chooses all ranks. "
    "Grown, shrunk: ranks that these changed, a site once for each change. Last change: the epoch, "
    "over the seeds that had one; kept: the seeds in which no later search changed anything."
)


def data(results: Path) -> pd.DataFrame:
    """One row per arm that searched, with `COLUMNS`.

    Over its finished trials with a search (`seeds`): how many of them kept the plan of their first
    search (`settled`), and the means of `searches`, of later searches that changed a rank
    (`changing`), and of how many ranks these raised (`grown`) and lowered (`shrunk`), sites counted
    again at each change. A dense site is above every rank. `last_change` is the mean epoch of the
    last change in the trials that had one, else nan.

    Raises:
        ValueError: as `load.trials`, no trial has finished, or none of them searched.
    """
    trials = notes.sound(results)
    done = load.finished(trials)
    searches = load.searches(results)
    moved = pd.DataFrame(
        {"arm": arm, **_moves(rows["epoch"].tolist(), rows["plan"].tolist())}
        for (arm, _), rows in searches[searches["trial_id"].isin(done["trial_id"])].groupby(
            ["arm", "trial_id"], sort=False
        )
    )
    require(
        len(moved) > 0, str(results), "no search", "a study with a finished trial that searched"
    )
    found = moved.groupby("arm", sort=False).agg(
        seeds=("searches", "size"),
        settled=("changing", lambda each: int((each == 0).sum())),
        searches=("searches", "mean"),
        changing=("changing", "mean"),
        grown=("grown", "mean"),
        shrunk=("shrunk", "mean"),
        last_change=("last_change", "mean"),
    )
    return notes.standing(trials).merge(found, on="arm")[list(COLUMNS)]


def _moves(epochs: Sequence[int], plans: Sequence[RankPlan]) -> dict[str, float]:
    """Changes of plan by the searches of one trial after the first."""
    pairs = list(zip(plans, plans[1:], strict=False))
    steps = [
        [_height(new[site]) - _height(old[site]) for site in new if new[site] != old[site]]
        for old, new in pairs
    ]
    changed = [epoch for epoch, step in zip(epochs[1:], steps, strict=True) if step]
    return {
        "searches": len(plans),
        "changing": len(changed),
        "grown": sum(move > 0 for step in steps for move in step),
        "shrunk": sum(move < 0 for step in steps for move in step),
        "last_change": changed[-1] if changed else math.nan,
    }


def _height(rank: int | None) -> float:
    return math.inf if rank is None else rank


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per arm, means over seeds."""
    shown = {
        "arm": table["label"],
        "seeds": table["seeds"],
        "kept": table["settled"],
        "searches": table["searches"].map("{:.1f}".format),
        "that changed": table["changing"].map("{:.1f}".format),
        "grown": table["grown"].map("{:.1f}".format),
        "shrunk": table["shrunk"].map("{:.1f}".format),
        "last change": table["last_change"].map("{:.1f}".format),
    }
    return {"": pd.DataFrame(shown).replace("nan", "")}


def note(table: pd.DataFrame) -> str:
    """Note below the table, as one paragraph."""
    return notes.write([LEGEND], table)


EXHIBITS = (command.Exhibit("table_changes", QUESTION, data, summarize, note),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
