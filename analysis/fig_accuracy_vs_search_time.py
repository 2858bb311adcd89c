"""Test accuracy against the seconds that searching took, arm by arm.

`python analysis/fig_accuracy_vs_search_time.py RESULTS`
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from adacomcat.checks import require
from analysis import command, load, notes, scatter, summary

NAME = "accuracy_vs_search_time"

COLUMNS = (
    "arm",
    "label",
    "workload",
    "seeds",
    "searching_s",
    "searching_s_min",
    "searching_s_max",
    "searches",
    "test_acc",
    "test_acc_low",
    "test_acc_high",
    "params",
    "dense_test_acc",
    "reduction",
    "on_front",
    "rebuild_known",
    *notes.COLUMNS,
)

ACROSS = scatter.Across("searching_s", "seconds of searching in a trial, square-root scale")


def data(results: Path) -> pd.DataFrame:
    """One row an arm of the study, in its order, with the columns `COLUMNS`.

    `searching_s` is what the searches of a trial took, and what it took to put their plans in force
    (where `rebuild_known`: a study that was read from a log may not have recorded it), in seconds;
    with its least and its greatest value over the seeds. `on_front`: no other arm of the same
    budget has, in the mean, fewer of these seconds and more accuracy. All other columns are as in
    `fig_accuracy_vs_searches.data`.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `notes.sound`, or no finished trial has recorded its searches' time.
    """
    trials = notes.sound(results)
    timed = int(load.finished(trials)["search_s"].notna().sum())
    require(timed > 0, f"{results}: search_s", timed, "finished trials that recorded it")
    table = summary.arms(trials)
    table["rebuild_known"] = table["arm"].isin(trials.loc[trials["rebuild_s"].notna(), "arm"])
    table["on_front"] = summary.front(table, "searching_s")
    return table[list(COLUMNS)]


def axes(table: pd.DataFrame) -> list[Axes]:
    """The axes for the table of `data`, one a budget, with the note below them."""
    return scatter.new_axes(table, note(table))


def note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure, as one paragraph."""
    shown = table[table["seeds"] > 0]
    known = shown["rebuild_known"].any()
    counted = "searching and of putting the plans in force" if known else "searching alone"
    parts = [
        *notes.means(table),
        f"Seconds of {counted}, on the machine that ran the trial, with whatever else it did.",
        "Level bars: fewest to most seconds of a seed." if (shown["seeds"] > 1).any() else "",
        *scatter.said(table),
        f"Mean of an arm: {notes.count(table['params'], 'parameter')}.",
    ]
    return notes.write(parts, table)


def draw(panels: Sequence[Axes], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`.

    Arms without a finished trial are named in the note below, not drawn. Marks of arms that would
    hide one another are moved apart sideways.
    """
    title = f"Accuracy against search time, workload {table['workload'].iloc[0]}"
    scatter.draw(panels, table, ACROSS, title)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: an arm a line."""
    shown = pd.DataFrame(
        {
            "arm": table["label"],
            "seeds": table["seeds"],
            "test accuracy %": (100 * table["test_acc"]).map("{:.2f}".format),
            "seconds": table["searching_s"].map("{:,.1f}".format),
            "searches": table["searches"].map("{:.1f}".format),
            "front": np.where(table["on_front"], "*", ""),
            "left out": table["left_out_why"],
        }
    )
    legend = "* on the Pareto front of the means"
    return f"{shown.to_string(index=False)}\n{legend}{notes.leak_lines(table)}"


if __name__ == "__main__":
    raise SystemExit(main())
