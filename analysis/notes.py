"""What every figure and its CSV say beside the numbers: what was left out, and what leaked.

The sentences of all notes are made here; the numbers of the arms are those of `summary`.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis import load, stats
from study.store import VERSIONS

COLUMNS = ("left_out", "left_out_why", "leakage")
"""The last columns of a figure's table, the same in all rows of an arm."""


def sound(results: Path) -> pd.DataFrame:
    """The trials of a study that has at least one finished one.

    Raises:
        ValueError: as `load.trials`, or no trial has finished yet.
    """
    trials = load.trials(results)
    got = ", ".join(f"{count} {cause}" for cause, count in load.left_out(trials).items())
    allowed = f"a study with a finished trial (this version reads {VERSIONS})"
    if len(load.finished(trials)) == 0:
        raise ValueError(f"{results}: got {got or 'no trial'}, allowed: {allowed}")
    return trials


def standing(trials: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: `arm`, `label`, `workload` and `COLUMNS`.

    `left_out` counts the trials that have not finished or are unusable, `left_out_why` says how
    they stand; unusable trials that belong to no arm are those of the arm `load.STRAY`.
    `leakage` is a sentence where the search or the selection saw the test images.

    Args:
        trials: of `load.trials`.
    """
    rows = []
    for arm, of_arm in trials.groupby("arm", sort=False):
        missing = load.left_out(of_arm)
        rows.append(
            {
                "arm": arm,
                "label": of_arm["label"].iloc[0],
                "workload": of_arm["workload"].iloc[0],
                "left_out": sum(missing.values()),
                "left_out_why": ", ".join(f"{count} {status}" for status, count in missing.items()),
                "leakage": load.leaks(of_arm),
            }
        )
    return pd.DataFrame(rows, columns=["arm", "label", "workload", *COLUMNS])


def count(numbers: Iterable[float], noun: str) -> str:
    """How many, where that may differ: `1 seed`, `3 to 5 seeds`, `1,200 images`; without nan."""
    counts = [number for number in numbers if not math.isnan(number)]
    low, high = (f"{bound:,.0f}" for bound in (min(counts), max(counts)))
    return f"{low if low == high else f'{low} to {high}'} {noun}{'' if high == '1' else 's'}"


def means(table: pd.DataFrame) -> list[str]:
    """The sentences on means and intervals of a table with `label`, `seeds`, `test_acc_low`."""
    shown = table[table["seeds"] > 0]
    bare = shown[shown["test_acc_low"].isna()]
    bars = f", bars: {100 * stats.LEVEL:g} % t interval" if len(bare) < len(shown) else ""
    said = [f"Test accuracy: mean over {count(shown['seeds'], 'seed')}{bars}."]
    if len(bare):
        which = "" if len(bare) == len(shown) else f" for {'; '.join(bare['label'])}"
        few = bare["seeds"] < stats.MIN_SEEDS
        why = [f"fewer than {stats.MIN_SEEDS} seeds"] if few.any() else []
        why += [] if few.all() else ["all seeds equal"]
        said.append(f"No interval{which}: {', or '.join(why)}.")
    return said


def leak_lines(table: pd.DataFrame) -> str:
    """The sentences on leakage of a figure's table, each on a line of its own below a text."""
    return "".join(f"\n{leak}" for leak in sorted({*table["leakage"]} - {""}))


def write(parts: Iterable[str], table: pd.DataFrame) -> str:
    """A note: leakage first, then what the figure has to say, then what was left out.

    Args:
        parts: sentences about what is drawn; empty ones are dropped.
        table: of the figure, with `arm`, `label` and `COLUMNS`.
    """
    arms = table.drop_duplicates("arm")
    leaks = []
    for leak, leaking in arms[arms["leakage"] != ""].groupby("leakage"):
        which = "" if len(leaking) == len(arms) else f" ({'; '.join(leaking['label'])})"
        leaks.append(f"{leak}{which}.")
    missing = arms[arms["left_out"] > 0]
    why = [f"{row['label']} ({row['left_out_why']})" for _, row in missing.iterrows()]
    left_out = f"Trials left out: {'; '.join(why) or 'none'}."
    return " ".join([*leaks, *filter(None, parts), left_out])
