"""A results directory as tidy tables.

Tables hold every trial, whatever its status; who draws takes the finished ones and shows the count
of the others (`left_out`), so that nothing is dropped in silence.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from adacomcat.checks import require
from adacomcat.config import leakage_note
from study.store import Results

TRIAL_KEYS = ("trial_id", "workload", "arm", "label", "seed", "status")
"""What names a trial: the first columns of every table."""

RECORD_COLUMNS = ("started", "finished", "error", "leakage")

SUMMARY_COLUMNS = (
    "test_acc", "test_loss", "val_acc", "searches", "search_epochs", "params", "macs", "plan",
    "train_s", "search_s", "rebuild_s", "eval_s", "data_s", "wall_s",
    "dense_test_acc", "dense_params", "dense_macs",
)  # fmt: skip


def study(results: Path) -> dict[str, Any]:
    """What was asked: the content of `study.json`.

    Raises:
        ValueError: no such folder, a folder without a study, no JSON, or a newer schema.
    """
    return Results(results.resolve()).study()


def trials(results: Path) -> pd.DataFrame:
    """One row a trial: `TRIAL_KEYS`, `RECORD_COLUMNS`, then the entries of its summary.

    `SUMMARY_COLUMNS` are there even when no trial has finished; they are empty in the row of a
    trial that has not. A trial that the study asks for and that has no record yet is a row with the
    status `pending`. `leakage` is a sentence where the search or the selection saw the test images,
    else empty. Rows are in the order of the study's arms, then of seeds.

    Raises:
        ValueError: as `study`, for any of the files; several workloads, an arm that the study does
            not have, or two trials of the same arm and seed.
    """
    asked = study(results)
    records = Results(results.resolve()).trials()
    _check(asked, records, results)
    recorded = {(record["arm"], record["seed"]) for record in records}
    rows = [_row(record) for record in records]
    rows += [
        {"workload": asked["workload"], "arm": arm["name"], "label": arm["label"]}
        | {"seed": seed, "status": "pending"}
        for arm in asked["arms"]
        for seed in asked["seeds"]
        if (arm["name"], seed) not in recorded
    ]
    order = [arm["name"] for arm in asked["arms"]]
    rows.sort(key=lambda row: (order.index(row["arm"]), row["seed"]))
    columns = dict.fromkeys(
        [*TRIAL_KEYS, *RECORD_COLUMNS, *SUMMARY_COLUMNS, *(key for row in rows for key in row)]
    )
    return pd.DataFrame(rows, columns=list(columns))


def epochs(results: Path) -> pd.DataFrame:
    """One row an epoch of every trial that has begun: `TRIAL_KEYS`, then the row's own entries.

    Raises:
        ValueError: as `trials`, or a line that is no JSON.
    """
    return _traces(results, Results(results.resolve()).epochs)


def searches(results: Path) -> pd.DataFrame:
    """One row a search of every trial that has begun: `TRIAL_KEYS`, then the row's own entries.

    Raises:
        ValueError: as `trials`, or a line that is no JSON.
    """
    return _traces(results, Results(results.resolve()).searches)


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, of any table of this module, that belong to finished trials."""
    return table[table["status"] == "finished"]


def left_out(table: pd.DataFrame) -> dict[str, int]:
    """How many trials have not finished: status -> count, by name.

    Args:
        table: of `trials`, or some of its rows.
    """
    others = table.loc[table["status"] != "finished", "status"]
    return {str(status): int(count) for status, count in others.value_counts().sort_index().items()}


def _row(record: dict[str, Any]) -> dict[str, Any]:
    head = {key: record[key] for key in (*TRIAL_KEYS, *RECORD_COLUMNS)}
    return {**head, "leakage": leakage_note(record["leakage"]), **(record["summary"] or {})}


def _traces(results: Path, read: Callable[[str], list[dict[str, Any]]]) -> pd.DataFrame:
    table = trials(results)
    keys = table.loc[table["trial_id"].notna(), list(TRIAL_KEYS)].to_dict("records")
    rows = [{**trial, **row} for trial in keys for row in read(str(trial["trial_id"]))]
    columns = dict.fromkeys([*TRIAL_KEYS, *(key for row in rows for key in row)])
    return pd.DataFrame(rows, columns=list(columns))


def _check(asked: dict[str, Any], records: list[dict[str, Any]], results: Path) -> None:
    workloads = sorted({asked["workload"], *(record["workload"] for record in records)})
    require(len(workloads) == 1, f"{results}: workload", workloads, "one workload in a study")
    arms = [arm["name"] for arm in asked["arms"]]
    strangers = sorted({record["arm"] for record in records} - set(arms))
    explored = asked.get("exploration") is not None and len(strangers) > 0
    allowed = "none for this; the figure coefficients is what explorations have"
    require(not explored, f"{results}: explored arms", len(strangers), allowed)
    require(not strangers, f"{results}: arm", strangers, f"the arms of study.json: {arms}")
    seen: dict[tuple[str, int], str] = {}
    for record in records:
        first = seen.setdefault((record["arm"], record["seed"]), record["trial_id"])
        both = [first, record["trial_id"]]
        require(first == both[1], f"{results}: trials", both, "one trial of an arm and a seed")
