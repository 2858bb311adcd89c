"""The arms of a study in numbers, summed up over their seeds; `notes` puts them in words."""

from typing import Any

import numpy as np
import pandas as pd

from analysis import load, notes, stats
from analysis.arms import series

MEASURES = ("searches", "searching_s", "params", "macs")
"""What an arm is summed up by, beside its accuracy."""

DENSE = ("dense_test_acc", "dense_params", "dense_macs")


def arms(trials: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, in the order of the study.

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
    """Which arms no other arm of their budget dominates: less cost, and more accuracy, in the mean.

    Args:
        table: of `arms`.
        cost: a column of it.
    """
    flags = np.zeros(len(table), dtype=bool)
    budgets = table["reduction"].fillna(-1.0).to_numpy(float)
    for budget in np.unique(budgets):
        same = budgets == budget
        flags[same] = stats.on_front(table.loc[same, cost], table.loc[same, "test_acc"])
    return flags.tolist()


def _row(arm: str, done: pd.DataFrame) -> dict[str, Any]:
    """Sum up the finished trials of one arm."""
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
