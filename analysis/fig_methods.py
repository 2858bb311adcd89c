"""Comparison of methods: test accuracy against MACs and against measured speed.

`python analysis/fig_methods.py RESULTS`; `python benchmarks/inference.py --results RESULTS`
measures the speeds first, into RESULTS/speed.json.
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adacomcat.checks import require
from analysis import command, load, notes, scatter, style, summary

SPEED, DENSE = "speed.json", "dense"
QUESTION = (
    "Which method leaves the most accuracy at the same multiply-accumulates, and at the same "
    "measured speed?"
)

COSTS = {
    "macs": "MACs of one image, attention's products included",
    "images_per_s": "images per second, measured",
}
COLUMNS = (
    *"arm label workload method series reduction seeds test_acc test_acc_low".split(),
    *"test_acc_high".split(),
    *(f"{cost}{end}" for cost in ("params", *COSTS) for end in ("", "_min", "_max")),
    *"over_dense measured".split(),
    *summary.DENSE,
    *notes.COLUMNS,
)
MEASURE = "python benchmarks/inference.py --results RESULTS"


def data(results: Path) -> pd.DataFrame:
    """One row per arm of the study, in its order, then one of the dense model.

    `method` names the arm's compression method. `images_per_s` is the mean over the seeds of the
    speeds of the trials' models, with the least and the greatest, and `over_dense` its ratio to
    that of the dense model; `measured` says on what. They are nan and empty where nothing was
    measured. All other columns are as in `fig_accuracy_vs_cost.data`; the dense model's accuracy,
    parameters and MACs are those that the trials recorded for it.

    Raises:
        ValueError: as `notes.sound`, a study of a single method, or speeds that do not read.
    """
    trials = notes.sound(results)
    methods = trials.groupby("arm")["method"].first()
    found = sorted(methods.dropna().unique())
    require(len(found) > 1, f"{results}: methods", ", ".join(found) or "none", "two or more")
    table = summary.arms(trials)
    table["method"] = table["arm"].map(methods)
    speeds, dense, measured = _speeds(results / SPEED)
    table = table.merge(_by_arm(load.finished(trials), speeds), on="arm", how="left")
    table["measured"] = np.where(table["images_per_s"].notna(), measured, "")
    whole = pd.concat([table, _dense(table, dense, measured)], ignore_index=True)
    return whole.reindex(columns=list(COLUMNS))


def _speeds(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """Speeds of the trials by id, of the dense model, and the machine of the measurement."""
    if not path.is_file():
        return {}, {}, ""
    try:
        record = json.loads(path.read_bytes())
        settings, machine = record["settings"], record["provenance"]["hardware"]
        where = ", ".join(machine["gpu"])
        if settings["device"] == "cpu":
            count = settings["threads"]
            where = f"{machine['cpu']}, {count} thread{'s' if count > 1 else ''}"
        measured = f"batch {settings['batch_size']}, {settings['dtype']}, {where}"
        return record["trials"], record["dense"], measured
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: got a file that does not read ({error!r}), allowed: the output of `{MEASURE}`"
        ) from None


def _by_arm(done: pd.DataFrame, speeds: Mapping[str, Any]) -> pd.DataFrame:
    """The speeds of the finished trials over the seeds: one row per arm."""
    names = ["images_per_s", "over_dense"]
    each = pd.DataFrame(
        [
            {"arm": arm, **{name: float(speeds[trial][name]) for name in names}}
            for trial, arm in zip(done["trial_id"], done["arm"], strict=True)
            if trial in speeds
        ],
        columns=["arm", *names],
    )
    groups = each.groupby("arm", sort=False)
    ends = {f"images_per_s_{end}": groups["images_per_s"].agg(end) for end in ("min", "max")}
    return groups[names].mean().assign(**ends).reset_index()


def _dense(table: pd.DataFrame, speed: Mapping[str, Any], measured: str) -> pd.DataFrame:
    """The row of the dense model."""
    known = table[list(summary.DENSE)].astype(float).mean()
    rate = float(speed.get("images_per_s", math.nan))
    costs = {"params": known["dense_params"], "macs": known["dense_macs"], "images_per_s": rate}
    row = {
        **dict.fromkeys(("arm", "label", "series"), DENSE),
        "workload": table["workload"].iloc[0],
        "seeds": 1,
        "test_acc": known["dense_test_acc"],
        **{f"{name}{end}": cost for name, cost in costs.items() for end in ("", "_min", "_max")},
        "over_dense": 1.0 if speed else math.nan,
        "measured": measured,
        "left_out": 0,
        **dict.fromkeys(("left_out_why", "leakage"), ""),
        **known,
    }
    return pd.DataFrame([row])


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    own = table[table["arm"] != DENSE]
    measured = own["images_per_s"].notna()
    speed = f"No speeds were measured: {MEASURE} does it."
    if measured.any():
        without = own.loc[~measured & (own["seeds"] > 0), "label"]
        missing = f" Without a speed: {'; '.join(without)}." if len(without) else ""
        speed = (
            f"Images per second, mean over the seeds: {own.loc[measured, 'measured'].iloc[0]}; "
            f"random parameters, all models in alternation.{missing}"
        )
    parts = [
        *notes.means(own),
        "Lines join the budgets of a method." if own["reduction"].notna().any() else "",
        "Level bars: range over the seeds." if (own["seeds"] > 1).any() else "",
        "The dense model is what all trials begin with, not trained further.",
        speed,
        "table_arms has the paired differences between methods and their tests.",
    ]
    return notes.write(parts, own)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `data` into an empty figure, a panel per cost that was measured."""
    own = table[table["arm"] != DENSE]
    costs = {cost: name for cost, name in COSTS.items() if own[cost].notna().any()}
    scatter.draw_costs(figure, table, costs)
    style.title(figure, f"Methods at the same MACs, workload {table['workload'].iloc[0]}")


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per arm: accuracy, size and speed."""
    return {"": summary.brief(table, "params", "macs", "images_per_s", "over_dense")}


EXHIBITS = (command.Exhibit("methods", QUESTION, data, summarize, note, draw),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
