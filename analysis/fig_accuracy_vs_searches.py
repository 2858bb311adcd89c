"""Test accuracy against the number of searches, or against search time, by arm.

`python analysis/fig_accuracy_vs_searches.py RESULTS [--draw accuracy_vs_search_time]`
"""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from adacomcat.checks import require
from analysis import command, load, notes, scatter, style, summary

QUESTIONS = (
    "What accuracy does a schedule reach with how many searches?",
    "What accuracy does a schedule reach in how many seconds of searching?",
)

NAMES = {
    "searches": ("searches", "NAS invocations (searches) of a trial"),
    "searching_s": ("search time", "seconds of searching in a trial"),
}
"""Cost -> its name in the title and below the axis."""

COLUMNS = (
    *"arm label workload series reduction seeds searches searches_min searches_max".split(),
    *"searching_s searching_s_min searching_s_max rebuild_known test_acc".split(),
    *"test_acc_low test_acc_high params dense_test_acc on_front".split(),
    *notes.COLUMNS,
)


def data(results: Path, cost: str = "searches") -> pd.DataFrame:
    """One row per arm of the study, in its order, with the columns `COLUMNS`.

    Accuracies are shares (0..1). `searches`, `searching_s`, `test_acc`, `params` and
    `dense_test_acc` are means over the finished seeds (`seeds` of them), nan for none.
    `searching_s` is the time in seconds that searches took and, where `rebuild_known` (a study that
    was read from a log may not have recorded it), that of putting their plans in force.
    `test_acc_low` and `test_acc_high` are the ends of the 95 % t interval of the mean, nan with
    fewer than three seeds. `on_front`: no other arm of the same budget (`reduction`, in %) has, on
    average, a lower cost and a higher accuracy. The last columns are those of `notes.standing`.

    Args:
        results: a results directory.
        cost: `searches` or `searching_s`.

    Raises:
        ValueError: as `notes.sound`, or no finished trial has recorded the cost.
    """
    trials = notes.sound(results)
    if cost == "searching_s":
        timed = int(load.finished(trials)["search_s"].notna().sum())
        require(timed > 0, f"{results}: search_s", timed, "finished trials that recorded it")
    table = summary.arms(trials)
    table["rebuild_known"] = table["arm"].isin(trials.loc[trials["rebuild_s"].notna(), "arm"])
    table["on_front"] = summary.front(table, cost)
    return table[list(COLUMNS)]


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per arm: accuracy, searches, their time where it is known, parameters."""
    front = table["on_front"].map({True: "*", False: ""})
    return {"": summary.brief(table, "searches", "searching_s", "params").assign(front=front)}


def note(table: pd.DataFrame, cost: str) -> str:
    """Note below the figure, as one paragraph."""
    dense = table["dense_test_acc"].mean()
    rebuilt = " and rebuilding" * bool(table["rebuild_known"].any())
    front = "; ".join(table.loc[table["on_front"], "label"])
    parts = [
        *notes.means(table),
        f"Dense model: {dense:.2%}." if dense == dense else "",
        f"Time of searching{rebuilt}, on the machine that ran the trial."
        if cost == "searching_s"
        else "",
        "Level bars: range over the seeds."
        if (table[f"{cost}_min"] < table[f"{cost}_max"]).any()
        else "",
        f"Pareto front of the means (stepped line, *): {front}."
        if table["reduction"].isna().all()
        else "Stepped lines and *: Pareto front of the means of each budget.",
        # A budget is a ceiling: arms that stay below it by different amounts are not equal.
        f"Mean of an arm: {notes.count(table['params'], 'parameter')}.",
    ]
    return notes.write(parts, table)


def draw(figure: Figure, table: pd.DataFrame, cost: str) -> None:
    """Draw the table of `data` into an empty figure, a panel per budget."""
    what, name = NAMES[cost]
    scatter.draw_budgets(figure, table, cost, name)
    style.title(figure, f"Accuracy against {what}, workload {table['workload'].iloc[0]}")


def _exhibit(name: str, question: str, cost: str) -> command.Exhibit:
    bound = (
        partial(data, cost=cost),
        summarize,
        partial(note, cost=cost),
        partial(draw, cost=cost),
    )
    return command.Exhibit(name, question, *bound)


EXHIBITS = (
    _exhibit("accuracy_vs_searches", QUESTIONS[0], "searches"),
    _exhibit("accuracy_vs_search_time", QUESTIONS[1], "searching_s"),
)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
