"""What each choice of the reference costs or gives: paired differences, changed one at a time.

`python analysis/fig_confounds.py RESULTS`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from adacomcat.checks import require
from analysis import arms, command, load, notes, stats, style, table_arms

NAME = "confounds"

COLUMNS = (
    "end",
    "choice",
    "change",
    "arm",
    "label",
    "workload",
    "pairs",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "loss_bound",
    "ruled_out",
    "leakage_differs",
    *notes.COLUMNS,
)

ALL = "all of them"
"""The choice of a row that compares one end with the other."""

ROW, LEFT, RIGHT, WIDTH = 0.34, 1.75, 2.35, 7.0
"""Inches: a row, the room for names and for numbers, and the whole figure."""


def data(results: Path) -> pd.DataFrame:
    """One row a comparison of an arm with its end, end by end, with the columns `COLUMNS`.

    `choice` is what the arm takes from the other end, and `change` how its setting goes, `from ->
    to` (empty where the configurations do not say); the row with the choice `ALL` compares the
    other end with this one. `pairs` of seeds; `difference`, the mean over them of the arm's test
    accuracy less its end's, a share, with the ends of its 95 % t interval; `p` of the paired t
    test, and `p_holm` corrected for the comparisons with the same end; `loss_bound`, `ruled_out`:
    as in `table_arms.data`. `leakage_differs`: the test images were seen in one of the two only.
    `left_out`, `left_out_why`, `leakage`: of the arm, as `notes.standing`.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `notes.sound`, or no arm is another one but for a choice.
    """
    trials = notes.sound(results)
    names = list(trials["arm"].unique())
    changed = arms.ends(names)
    allowed = "a study with arms END and END_but_CHOICE, as source_and_annealing has"
    require(bool(changed), f"{results}: arms", names, allowed)
    table = table_arms.comparisons(trials).rename(columns={"against": "end"})
    table = table[table["end"].isin(arms.ends_of(names))].copy()
    table["choice"] = [changed[arm][1] if arm in changed else ALL for arm in table["arm"]]
    configs = {arm["name"]: arm.get("config") or {} for arm in load.study(results)["arms"]}
    pairs = list(zip(table["end"], table["arm"], table["choice"], strict=True))
    table["change"] = [
        "" if choice == ALL else _change(configs[end], configs[arm]) for end, arm, choice in pairs
    ]
    standing = notes.standing(trials)
    leaks = dict(zip(standing["arm"], standing["leakage"], strict=True))
    table["leakage_differs"] = [leaks[end] != leaks[arm] for end, arm, _ in pairs]
    table = table.merge(standing, on="arm")
    table["order"] = table["end"].map({end: i for i, end in enumerate(arms.ends_of(names))})
    table["last"] = table["choice"] == ALL
    table = table.sort_values(["order", "last"], kind="stable").reset_index(drop=True)
    return table[list(COLUMNS)]


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The one setting that two configurations differ in, as `from -> to`; empty for none, many."""
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


def axes(table: pd.DataFrame) -> Axes:
    """The axes for the table of `data`, with the note below them."""
    rows = len(table) + table["end"].nunique()
    made = style.new_figure(
        1,
        1,
        width=WIDTH,
        height=ROW * (rows + 0.2),
        left=LEFT,
        right=RIGHT,
        top=0.6,
        note=note(table),
    )
    ax: Axes = made[0, 0]
    return ax


def note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure, as one paragraph."""
    hollow = "Hollow: the test images were seen in one of the two only, which flatters it."
    parts = [
        "Mean over seeds of the paired difference in test accuracy (arm less its end), bars: "
        f"{100 * stats.LEVEL:g} % t interval; p: paired t test, corrected by Holm's method for "
        "the comparisons with the same end.",
        hollow if table["leakage_differs"].any() else "",
    ]
    return notes.write(parts, table)


def draw(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the table of `data`: a forest plot, end by end, in percentage points."""
    ends = list(dict.fromkeys(table["end"]))
    level = 0.0
    ax.axvline(0, color=style.INK, linewidth=1.0, zorder=1)
    _set_axes(ax, table)
    _write(ax, 1.0, -0.75, "points [95 % interval]", x_pt=8, color=style.QUIET)
    _write(ax, 1.0, -0.75, "p", x_pt=132, color=style.QUIET)
    for end in ends:
        _write(
            ax,
            0.0,
            level,
            f"{end}, with one choice changed",
            x_pt=-118,
            weight="bold",
            backgroundcolor="white",
        )
        level += 1
        for _, row in table[table["end"] == end].iterrows():
            _draw_row(ax, row, level, ends)
            level += 1
    margin = -(LEFT - 0.12) / (WIDTH - LEFT - RIGHT)
    workload = table["workload"].iloc[0]
    style.title(ax, f"What each choice is worth, workload {workload}", pad=24, x=margin)


def _set_axes(ax: Axes, table: pd.DataFrame) -> None:
    """Scales, limits and names: rows from the top, zero always in sight."""
    values = 100 * table[["difference", "difference_low", "difference_high"]].to_numpy(float)
    known = np.append(values[np.isfinite(values)], 0.0)
    air = 0.08 * max(float(np.ptp(known)), 0.5)
    ax.set_xlim(known.min() - air, known.max() + air)
    ax.set_ylim(len(table) + table["end"].nunique() - 0.4, -0.6)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("difference in test accuracy (percentage points)")


def _draw_row(ax: Axes, row: pd.Series, level: float, ends: Sequence[str]) -> None:
    """A mark with its interval; its choice on the left, its numbers on the right."""
    look = style.look(row["arm"] if row["choice"] == ALL else row["end"])
    mean, low, high = (100 * row[f"difference{end}"] for end in ("", "_low", "_high"))
    ax.plot([low, high], [level, level], color=style.INK, linewidth=1.2, zorder=2)
    ax.plot(
        [mean],
        [level],
        gid=f"mark:{row['end']}:{row['choice']}",
        linestyle="none",
        zorder=3,
        marker=look.marker,
        markersize=look.size,
        markeredgecolor=style.INK,
        markeredgewidth=0.9,
        markerfacecolor="white" if row["leakage_differs"] else look.color,
    )
    choice = row["choice"].replace("_", " ")
    if row["choice"] == ALL:
        choice = f"all of them: {row['label']}" if len(ends) > 1 else choice
    _write(ax, 0.0, level, choice, x_pt=-110, y_pt=5 if row["change"] else 0)
    _write(ax, 0.0, level, row["change"], x_pt=-110, y_pt=-5.5, color=style.QUIET, size="small")
    if np.isnan(low):
        why = row["ruled_out"].removeprefix("no interval: ")
        _write(ax, 1.0, level, why, x_pt=8 if np.isnan(mean) else 42, color=style.QUIET)
    else:
        _write(ax, 1.0, level, f"[{_signed(low)}, {_signed(high)}]", x_pt=42)
        _write(ax, 1.0, level, f"{row['p_holm']:.3f}", x_pt=132)
    if not np.isnan(mean):
        _write(ax, 1.0, level, _signed(mean), x_pt=8)


def _signed(points: float) -> str:
    # What rounds to zero has no sign of its own, and a minus is no hyphen.
    return f"{round(points, 6) + 0.0:+.2f}".replace("-", "−")


def _write(
    ax: Axes, x: float, level: float, text: str, *, x_pt: float, y_pt: float = 0.0, **how: Any
) -> None:
    """Write beside a row: `x` in shares of the axes, then points to the right and upwards."""
    ax.annotate(
        text,
        (x, level),
        xycoords=("axes fraction", "data"),
        xytext=(x_pt, y_pt),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **how,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: a comparison a line, in percentage points."""
    shown = table[["end", "choice", "change", "pairs"]].copy()
    for column in ("difference", "difference_low", "difference_high"):
        shown[column] = 100 * table[column]
    shown["p"], shown["Holm"] = table["p"], table["p_holm"]
    shown["ruled out"] = table["ruled_out"]
    text = shown.to_string(index=False, float_format="{:.3f}".format, na_rep="")
    return f"{text}\ndifferences in percentage points; {note(table)}"


if __name__ == "__main__":
    raise SystemExit(main())
