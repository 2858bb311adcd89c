"""Arms of a study, summarized over their seeds."""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from analysis import load, notes, stats
from analysis.arms import series
from study.pareto import on_front

MEASURES = ("searches", "searching_s", "params", "macs")
"""Measures of an arm besides its accuracy."""

DENSE = ("dense_test_acc", "dense_params", "dense_macs")

TITLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "searches": ("searches", ".1f"),
        "searching_s": ("search s", ",.1f"),
        "params": ("params", ",.0f"),
        "macs": ("MACs", ",.0f"),
        "images_per_s": ("images/s", ",.0f"),
        "over_dense": ("over dense", ".2f"),
    }
)
"""Measure -> its title in a table for readers, and the form of its numbers."""


def arms(trials: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, in the order of the study.

    Columns: `arm`, `label`, `workload`; `series`, its name without its budget, and `reduction`, the
    budget in % (nan in a study of one budget); `seeds`, the number of finished trials, over which
    all that follows is a mean, nan for none; `test_acc` (a share) with the ends `test_acc_low` and
    `test_acc_high` of its 95 % t interval, nan where there is none, as `interval` says in words;
    each of `MEASURES` with its `_min` and `_max` over the seeds; `DENSE`; then `notes.COLUMNS`.

    `searching_s` is the time that searches took and, where it was recorded, that of putting their
    plans in force (`search_s + rebuild_s`): what a schedule can save.

    Args:
        trials: of `notes.sound`.
    """
    spent = trials["search_s"].astype(float) + trials["rebuild_s"].astype(float).fillna(0.0)
    done = load.finished(trials.assign(searching_s=spent))
    rows = [_row(arm, done[done["arm"] == arm]) for arm in trials["arm"].unique()]
    table = notes.standing(trials).merge(pd.DataFrame(rows), on="arm")
    names = list(table["arm"])
    found = [series(name, names) for name in names]
    table["series"] = [name for name, _ in found]
    table["reduction"] = [np.nan if share is None else float(share) for _, share in found]
    return table[[*(name for name in table if name not in notes.COLUMNS), *notes.COLUMNS]]


def front(table: pd.DataFrame, cost: str) -> list[bool]:
    """Arms that no other arm of their budget dominates by a lower mean cost and a higher accuracy.

    Args:
        table: of `arms`.
        cost: a column of it.
    """
    flags = np.zeros(len(table), dtype=bool)
    budgets = table["reduction"].fillna(-1.0).to_numpy(float)
    for budget in np.unique(budgets):
        same = budgets == budget
        costs = table.loc[same, [cost, "test_acc"]].to_numpy(float) * (1, -1)
        flags[same] = on_front(costs)
    return flags.tolist()


def brief(table: pd.DataFrame, *measures: str) -> pd.DataFrame:
    """The arms for readers: label, seeds, accuracy with half of its interval, and some measures.

    Args:
        table: with the columns of `arms`; a measure that no arm has is left out.
        measures: of `TITLES`.
    """
    half = texts(50 * (table["test_acc_high"] - table["test_acc_low"]), ".2f")
    means = zip(texts(100 * table["test_acc"], ".2f"), half, strict=True)
    shown = {
        "arm": table["label"],
        "seeds": table["seeds"],
        "test accuracy %": [f"{mean} ± {spread}" if spread else mean for mean, spread in means],
    }
    for measure in measures:
        if table[measure].notna().any():
            title, form = TITLES[measure]
            shown[title] = texts(table[measure], form)
    return pd.DataFrame(shown | {"left out": table["left_out_why"]})


def texts(values: Iterable[float], form: str) -> list[str]:
    """Numbers in a form, nan as an empty text."""
    # What rounds to zero has no sign.
    return ["" if math.isnan(v) else format(round(v, 6) + 0.0, form) for v in values]


def _row(arm: str, done: pd.DataFrame) -> dict[str, Any]:
    """Summary of the finished trials of one arm."""
    accuracy = stats.estimate(done["test_acc"])
    row: dict[str, Any] = {
        "arm": arm,
        "seeds": accuracy.seeds,
        "test_acc": accuracy.mean,
        "test_acc_low": accuracy.low,
        "test_acc_high": accuracy.high,
        "interval": accuracy.named(),
    }
    for name in MEASURES:
        values = done[name].astype(float)
        row |= {name: values.mean(), f"{name}_min": values.min(), f"{name}_max": values.max()}
    return row | {name: done[name].astype(float).mean() for name in DENSE}
