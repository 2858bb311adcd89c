"""Effects of the reference's choices: paired differences, one choice changed at a time.

`python analysis/fig_confounds.py RESULTS`
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adacomcat.checks import require
from analysis import arms, command, load, notes, stats, style, table_arms

QUESTION = "What does each choice of the reference cost or give?"

COLUMNS = (
    *"end choice change arm label workload pairs difference difference_low".split(),
    *"difference_high p p_holm loss_bound ruled_out leakage_differs".split(),
    *notes.COLUMNS,
)

ALL = "all of them"
"""The choice of a row that compares one end with the other."""


def data(results: Path) -> pd.DataFrame:
    """One row per comparison of an arm with its end, end by end, with the columns `COLUMNS`.

    `choice` is what the arm takes from the other end, and `change` how its setting goes, `from ->
    to` (empty where the configurations do not say); the row with the choice `ALL` compares the
    other end with this one. `pairs` of seeds; `difference`, the mean over them of the arm's test
    accuracy less its end's, a share, with the ends of its 95 % t interval; `p` of the paired t
    test, and `p_holm` corrected for the comparisons with the same end; `loss_bound`, `ruled_out`:
    as in `table_arms.data`. `leakage_differs`: the test images were seen in one of the two only.
    `left_out`, `left_out_why`, `leakage`: of the arm, as `notes.standing`.

    Raises:
        ValueError: as `notes.sound`, or no arm differs from another one by one choice.
    """
    trials = notes.sound(results)
    names = list(trials["arm"].unique())
    changed, ends = arms.ends(names), arms.ends_of(names)
    allowed = "a study with arms END and END_but_CHOICE, as source_and_annealing has"
    require(bool(changed), f"{results}: arms", names, allowed)
    table = table_arms.comparisons(trials).rename(columns={"against": "end"})
    table = table[table["end"].isin(ends)].copy()
    table["choice"] = [changed[arm][1] if arm in changed else ALL for arm in table["arm"]]
    configs = {arm["name"]: arm.get("config") or {} for arm in load.study(results)["arms"]}
    pairs = list(zip(table["end"], table["arm"], table["choice"], strict=True))
    table["change"] = [
        "" if choice == ALL else change(configs[end], configs[arm]) for end, arm, choice in pairs
    ]
    standing = notes.standing(trials)
    leaks = dict(zip(standing["arm"], standing["leakage"], strict=True))
    table["leakage_differs"] = [leaks[end] != leaks[arm] for end, arm, _ in pairs]
    table = table.merge(standing, on="arm")
    table["order"], table["last"] = table["end"].map(ends.index), table["choice"] == ALL
    table = table.sort_values(["order", "last"], kind="stable").reset_index(drop=True)
    return table[list(COLUMNS)]


def change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The one setting in which two configurations differ, as `from -> to`; empty for none, many."""
    differing = _differing(before, after, "")
    if len(differing) != 1:
        return ""
    name, old, new = differing[0]
    if isinstance(old, bool) and isinstance(new, bool):
        old, new = (name if value else f"not {name}" for value in (old, new))
    return f"{old} → {new}"


def _differing(before: Any, after: Any, name: str) -> list[tuple[str, Any, Any]]:
    """(last part of the name, value before, value after) of all settings that differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        return [found for key in keys for found in _differing(before.get(key), after.get(key), key)]
    return [] if before == after else [(name, before, after)]


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `data` into an empty figure: a forest plot per end, percentage points."""
    ends = list(dict.fromkeys(table["end"]))
    counts = [int((table["end"] == end).sum()) for end in ends]
    figure.set_size_inches(7.2, 0.3 * len(table) + 0.6 * len(ends) + 1.0)
    panels = figure.subplots(len(ends), sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for ax, end in zip(panels, ends, strict=True):
        rows = table[table["end"] == end].reset_index(drop=True)
        ax.axvline(0, color=style.INK, linewidth=1.0, zorder=1)
        for level, row in rows.iterrows():
            look = style.look(row["arm"] if row["choice"] == ALL else end)
            mean, low, high = (100 * row[f"difference{part}"] for part in ("", "_low", "_high"))
            ax.plot([low, high], [level, level], color=style.INK, linewidth=1.2, zorder=2)
            # Hollow where one of the two has seen the test images.
            face = "white" if row["leakage_differs"] else look.color
            mark = style.mark(
                row["arm"], marker=look.marker, markersize=look.size, markerfacecolor=face
            )
            ax.plot([mean], [level], zorder=3, gid=f"mark:{end}:{row['choice']}", **mark)
        ax.set_title(f"{end}, with one choice changed", weight="bold", fontsize=9.5)
        ax.set_yticks(rows.index, [_name(row) for _, row in rows.iterrows()])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        beside = ax.secondary_yaxis("right")
        beside.set_yticks(rows.index, [_numbers(row) for _, row in rows.iterrows()])
        for axis in (ax, beside):
            axis.tick_params(axis="y", length=0, labelsize=8.3)
        for side in ("left", "right"):
            ax.spines[side].set_visible(False)
        beside.spines["right"].set_visible(False)
    panels[-1].set_xlabel("difference in test accuracy (percentage points)")
    style.title(figure, f"What each choice is worth, workload {table['workload'].iloc[0]}")


def _name(row: pd.Series) -> str:
    if row["choice"] == ALL:
        return f"all of them: {row['label']}"
    return row["choice"].replace("_", " ") + (f" ({row['change']})" if row["change"] else "")


def _numbers(row: pd.Series) -> str:
    """The difference with its interval and p-value, or why there is none."""
    if np.isnan(row["difference"]):
        return str(row["ruled_out"]).removeprefix("no interval: ")
    if np.isnan(row["difference_low"]):
        return f"{table_arms.points(row)}, {row['ruled_out'].removeprefix('no interval: ')}"
    return f"{table_arms.points(row)}, p {row['p_holm']:.3f}"


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    hollow = "Hollow: the test images were seen in one of the two only, which flatters it."
    parts = [
        "Mean over seeds of the paired difference in test accuracy (arm less its end), bars and "
        f"brackets: {100 * stats.LEVEL:g} % t interval; p: paired t test, corrected by Holm's "
        "method for the comparisons with the same end.",
        hollow if table["leakage_differs"].any() else "",
    ]
    return notes.write(parts, table)


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per comparison, in percentage points."""
    shown = {
        "end": table["end"],
        "choice": table["choice"],
        "change": table["change"],
        "pairs": table["pairs"],
        "points": [table_arms.points(row) for _, row in table.iterrows()],
        "p": table["p"].map("{:.3f}".format),
        "Holm": table["p_holm"].map("{:.3f}".format),
        "ruled out": table["ruled_out"],
    }
    return {"Differences in percentage points": pd.DataFrame(shown).replace("nan", "")}


EXHIBITS = (command.Exhibit("confounds", QUESTION, data, summarize, note, draw),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
