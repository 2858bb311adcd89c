"""Notes below figures and tables: means, intervals, excluded trials, leakage."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis import load, stats
from study.store import VERSIONS

COLUMNS = ("left_out", "left_out_why", "leakage")
"""Last columns of a table, the same in all rows of an arm."""

FLAGS = ("searched", "changed", "last")
"""Columns that are true or false, whatever was recorded."""


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
    """One row per arm: `arm`, `label`, `workload` and `COLUMNS`.

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


def attach(trials: pd.DataFrame, rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table of a figure: rows of arms, with the columns of `standing`.

    Numbers become floats, and `FLAGS` are false where they are missing.

    Args:
        trials: of `load.trials`.
        rows: with `arm`; an arm without any gets an empty one.
        columns: of the table.
    """
    made = standing(trials)
    own = ["arm", *(name for name in columns if name not in made)]
    table = made.merge(rows.reindex(columns=own), on="arm", how="left")
    for name in own:
        if name in FLAGS:
            table[name] = table[name].eq(True)
        elif pd.api.types.infer_dtype(table[name], skipna=True) != "string":
            table[name] = table[name].astype(float)
    return table[list(columns)]


def count(numbers: Iterable[float], noun: str, plural: str | None = None) -> str:
    """A count that may differ, in words: `1 seed`, `3 to 5 seeds`, `1,200 images`; without nan."""
    counts = [number for number in numbers if not math.isnan(number)]
    low, high = (f"{bound:,.0f}" for bound in (min(counts), max(counts)))
    said = noun if high == "1" else plural or f"{noun}s"
    return f"{low if low == high else f'{low} to {high}'} {said}"


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


def write(parts: Iterable[str], table: pd.DataFrame) -> str:
    """A note: leakage first, then sentences about the figure, then what was left out.

    Args:
        parts: the sentences; empty ones are dropped.
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
