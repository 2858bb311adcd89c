"""Test accuracy against parameters, and against MACs.

`python analysis/fig_accuracy_vs_cost.py RESULTS`
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import command, notes, scatter, style, summary

QUESTION = "What accuracy is left at how many parameters and multiply-accumulates?"

COSTS = {"params": "parameters", "macs": "MACs of one image, attention's products included"}

COLUMNS = (
    *"arm label workload series reduction seeds test_acc test_acc_low test_acc_high".split(),
    *(f"{cost}{end}" for cost in COSTS for end in ("", "_min", "_max")),
    *summary.DENSE,
    *notes.COLUMNS,
)


def data(results: Path) -> pd.DataFrame:
    """One row per arm of the study, in its order, with the columns `COLUMNS`.

    `series` is the arm's name without its budget, and `reduction` the budget, in % (nan in a study
    of one). `params` and `macs` are means over the finished seeds, with the least and the greatest;
    MACs are those of one image, nan where they were not recorded. The other columns are as in
    `fig_accuracy_vs_searches.data`.

    Raises:
        ValueError: as `notes.sound`.
    """
    return summary.arms(notes.sound(results))[list(COLUMNS)]


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `data` into an empty figure, a panel per cost that was recorded."""
    known = {cost: name for cost, name in COSTS.items() if table[cost].notna().any()}
    scatter.draw_costs(figure, table, known or COSTS)
    style.title(figure, f"Accuracy against cost, workload {table['workload'].iloc[0]}")


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    dense = table[["dense_params", "dense_macs"]].astype(float).mean()
    sizes = zip(dense, ("parameters", "MACs"), strict=True)
    size = " and ".join(f"{value:,.0f} {what}" for value, what in sizes if not np.isnan(value))
    parts = [
        *notes.means(table),
        "Lines join the budgets of a schedule." if table["reduction"].notna().any() else "",
        "Level bars: range over the seeds." if (table["seeds"] > 1).any() else "",
        f"The dense model has {size}." if size else "",
        *(f"No {cost} were recorded." for cost in COSTS if table[cost].isna().all()),
    ]
    return notes.write(parts, table)


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per arm: accuracy, parameters and MACs."""
    return {"": summary.brief(table, "params", "macs")}


EXHIBITS = (command.Exhibit("accuracy_vs_cost", QUESTION, data, summarize, note, draw),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
