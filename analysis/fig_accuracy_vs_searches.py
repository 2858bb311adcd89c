"""Test accuracy against the number of searches (NAS invocations), arm by arm.

`python analysis/fig_accuracy_vs_searches.py RESULTS`
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import command, notes, scatter, stats, summary

NAME = "accuracy_vs_searches"

COLUMNS = (
    "arm",
    "label",
    "workload",
    "seeds",
    "searches",
    "searches_min",
    "searches_max",
    "test_acc",
    "test_acc_low",
    "test_acc_high",
    "params",
    "dense_test_acc",
    "reduction",
    "on_front",
    "left_out",
    "left_out_why",
    "leakage",
)

ACROSS = scatter.Across(
    "searches",
    "NAS invocations (searches) of a trial, square-root scale",
    (0, 1, 2, 4, 6, 8, 11, 15, 20, 25, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000),
)


def data(results: Path) -> pd.DataFrame:
    """One row an arm of the study, in its order, with the columns `COLUMNS`.

    Accuracies are shares (0..1). `searches`, `test_acc`, `params` and `dense_test_acc` are means
    over the finished seeds (`seeds` of them), nan for none. `test_acc_low` and `test_acc_high` are
    the ends of the 95 % t interval of the mean, nan with fewer than three seeds. `on_front`: no
    other arm (of the same budget: `reduction`, in %, nan in a study of one) has, in the mean, fewer
    searches and more accuracy. `left_out` counts the trials that have not finished, and
    `left_out_why` says how they stand; `leakage` is a sentence where the search or the selection
    saw the test images.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `load.trials`, or no trial has finished yet.
    """
    table = summary.arms(notes.sound(results))
    table["on_front"] = summary.front(table, "searches")
    return table[list(COLUMNS)]


def axes(table: pd.DataFrame) -> list[Axes]:
    """The axes for the table of `data`, one a budget, with the note below them."""
    return scatter.new_axes(table, note(table))


def note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure, as one paragraph."""
    varied = (table["searches_min"] < table["searches_max"]).any()
    parts = [
        *notes.means(table),
        "Level bars: fewest to most searches of a seed." if varied else "",
        *scatter.said(table),
        # A budget is a ceiling: arms that stay below it by different amounts are no equals.
        f"Mean of an arm: {notes.count(table['params'], 'parameter')}.",
    ]
    return notes.write(parts, table)


def draw(panels: Sequence[Axes], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`.

    Arms without a finished trial are named in the note below, not drawn. Marks of arms that would
    hide one another are moved apart sideways.
    """
    title = f"Accuracy against searches, workload {table['workload'].iloc[0]}"
    scatter.draw(panels, table, ACROSS, title)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: an arm a line, the dense model and a legend below."""
    half = 100 * (table["test_acc_high"] - table["test_acc_low"]) / 2
    spread = half.map(lambda h: "" if np.isnan(h) else f" ± {h:.2f}")
    shown = pd.DataFrame(
        {
            "arm": table["label"],
            "seeds": table["seeds"],
            "test accuracy %": (100 * table["test_acc"]).map("{:.2f}".format) + spread,
            "searches": table["searches"].map("{:.1f}".format),
            "params": table["params"].map("{:,.0f}".format),
            "front": table["on_front"].map({True: "*", False: ""}),
            "left out": table["left_out_why"],
        }
    )
    dense = f"dense model {table['dense_test_acc'].mean():.2%} test accuracy"
    legend = f"± half of the {stats.LEVEL:.0%} t interval, from {stats.MIN_SEEDS} seeds on"
    front = "* on the Pareto front of the means"
    return f"{shown.to_string(index=False)}\n{dense}; {legend}; {front}{notes.leak_lines(table)}"


if __name__ == "__main__":
    raise SystemExit(main())
