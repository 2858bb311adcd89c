"""A results directory as tidy tables.

Tables hold every trial, whatever its status. Figures show the finished ones and the count of the
others (`left_out`). A trial that no figure can use, for instance since a newer version wrote it,
has the status `unusable` and does not affect the others.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adacomcat.checks import require
from adacomcat.config import leakage_note
from study.store import TRIAL_ENTRIES, VERSIONS, Results, open_results

TRIAL_KEYS = ("trial_id", "workload", "arm", "label", "seed", "status")
"""Columns that identify a trial: the first ones of every table."""

RECORD_COLUMNS = ("started", "finished", "error", "leakage", "unusable", "method")

SUMMARY_COLUMNS = (
    *"test_acc test_loss val_acc searches search_epochs params macs plan".split(),
    *"train_s search_s rebuild_s eval_s data_s wall_s".split(),
    *"dense_test_acc dense_params dense_macs".split(),
)

UNUSABLE = "unusable"
"""The status of a trial whose files do not read, or do not belong to the study."""

STRAY = "?"
"""The arm of an unusable trial that no arm of the study can be named for."""

NO_SEED = -1
"""The seed of such a trial."""

_FOLDER = re.compile(r"(?P<workload>.+)-(?P<arm>[a-z][a-z0-9_]*)-s(?P<seed>\d+)-[0-9a-f]{8}")


def study(results: Path) -> dict[str, Any]:
    """The content of `study.json`.

    Raises:
        ValueError: no such folder, a folder without a study, no JSON, or a newer schema.
    """
    return clean(open_results(results).study())


def clean(record: dict[str, Any]) -> dict[str, Any]:
    """A record out of JSON without lone surrogates, which neither files nor pictures can hold."""
    cleaned: dict[str, Any] = json.loads(
        json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
    )
    return cleaned


def records(results: Path) -> list[dict[str, Any]]:
    """The content of each `trial.json`, unusable ones included, by trial id.

    An entry has all of `study.store.TRIAL_ENTRIES`, and `unusable`: empty, or the cause in a few
    words that follow a number of trials (`2 of schema 7`). With a cause, `status` is `UNUSABLE`,
    `error` a sentence, and `arm` and `seed` are `STRAY` and `NO_SEED` where the study has no such
    arm; for a record that does not read they follow from the name of its folder, the rest is None.
    Unusable are

    - a record that is no JSON, has a newer schema, or lacks an entry;
    - one of another workload, or of an arm that the study does not have;
    - a finished trial without an accuracy or a trace, and any whose trace does not read.

    Raises:
        ValueError: as `study`.
    """
    asked, store = study(results), open_results(results)
    read, unread = store.readable()
    found = []
    for record in read:
        short, error = _fault(record, asked, store)
        cause = {"status": UNUSABLE, "error": error, **_placed(record, asked)} if short else {}
        found.append(clean(record | cause | {"unusable": short}))
    for folder, wrong in unread.items():
        named = dict.fromkeys(TRIAL_ENTRIES) | _named(folder, asked)
        error = str(wrong).replace(f"{store.root}/", "")
        cause = {"status": UNUSABLE, "error": error, "unusable": wrong.short}
        found.append(named | cause | _placed(named, asked))
    return sorted(found, key=lambda record: str(record["trial_id"]))


def usable(results: Path) -> dict[str, dict[str, Any]]:
    """The records that are not unusable: trial id -> content of `trial.json`.

    Raises:
        ValueError: as `study`.
    """
    return {r["trial_id"]: r for r in records(results) if r["status"] != UNUSABLE}


def require_usable(results: Path) -> None:
    """Refuse a study that has trials of which none is usable.

    Raises:
        ValueError: as `study`, or all trials are unusable; it tells the causes.
    """
    found = records(results)
    if found and all(record["status"] == UNUSABLE for record in found):
        causes = Counter(record["unusable"] for record in found)
        got = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
        allowed = f"trials that this version can use (it reads {VERSIONS})"
        raise ValueError(f"{results}: got {got}, allowed: {allowed}")


def trials(results: Path) -> pd.DataFrame:
    """One row per trial: `TRIAL_KEYS`, `RECORD_COLUMNS`, then the entries of its summary.

    `SUMMARY_COLUMNS` are there even when no trial has finished; they are empty in the row of a
    trial that has not, as in that of an unusable one (`records`), whose arm may be `STRAY` and its
    seed `NO_SEED`. A trial of the study that has no record yet is a row with the
    status `pending`. `workload` is that of the study, `method` the name of the compression method.
    `leakage` is a sentence where the search or the selection saw the test images, else empty. Rows
    are in the order of the study's arms, then of seeds.

    Raises:
        ValueError: as `study`; trials of an exploration beyond the study's arms, or two usable
            trials of the same arm and seed.
    """
    asked, found = study(results), records(results)
    arms = {arm["name"]: arm["label"] for arm in asked["arms"]}
    _check(found, arms, results)
    recorded = {(record["arm"], record["seed"]) for record in found}
    rows = [_row(record) | {"workload": asked["workload"]} for record in found]
    rows += [
        {"workload": asked["workload"], "arm": arm, "label": label, "seed": seed}
        | {"status": "pending", "unusable": ""}
        for arm, label in arms.items()
        for seed in asked["seeds"]
        if (arm, seed) not in recorded
    ]
    order = [*arms, STRAY]
    rows.sort(key=lambda row: (order.index(row["arm"]), row["seed"]))
    columns = dict.fromkeys(
        [*TRIAL_KEYS, *RECORD_COLUMNS, *SUMMARY_COLUMNS, *(key for row in rows for key in row)]
    )
    return pd.DataFrame(rows, columns=list(columns))


def epochs(results: Path) -> pd.DataFrame:
    """One row per epoch of every usable trial that has begun: `TRIAL_KEYS`, then its own entries.

    Raises:
        ValueError: as `trials`.
    """
    return _traces(results, "epochs")


def searches(results: Path) -> pd.DataFrame:
    """One row per search of every usable trial that has begun: `TRIAL_KEYS`, then its own entries.

    Raises:
        ValueError: as `trials`.
    """
    return _traces(results, "searches")


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, of any table of this module, that belong to finished trials."""
    return table[table["status"] == "finished"]


def left_out(table: pd.DataFrame) -> dict[str, int]:
    """Status or cause -> how many of some rows of `trials` are not finished or are unusable."""
    others = table[table["status"] != "finished"]
    causes = others["status"].where(others["status"] != UNUSABLE, others["unusable"])
    return {str(cause): int(count) for cause, count in causes.value_counts().sort_index().items()}


def leaks(table: pd.DataFrame) -> str:
    """The sentences on leakage of some rows of `trials`, each once; empty where nothing leaks."""
    return "; ".join(sorted({*table["leakage"].dropna()} - {""}))


def _fault(
    record: Mapping[str, Any], asked: Mapping[str, Any], store: Results
) -> tuple[str, str | None]:
    """Why no figure can use a trial whose record reads: in a few words, and as a sentence."""
    trial_id, arms = record["trial_id"], [arm["name"] for arm in asked["arms"]]
    if record["workload"] != asked["workload"]:
        short = f"of the workload {record['workload']}"
        return short, f"{short}; the study is of {asked['workload']}"
    if record["arm"] not in arms and asked.get("exploration") is None:
        short = f"of the arm {record['arm']}"
        return short, f"{short}, which the study does not have"
    try:
        begun = bool(store.epochs(trial_id))
        store.searches(trial_id)
    except ValueError as error:
        return "with a broken trace", str(error).replace(f"{store.root}/", "")
    if record["status"] == "finished":
        accuracy = (record["summary"] or {}).get("test_acc")
        if not isinstance(accuracy, int | float) or not math.isfinite(accuracy):
            return "without an accuracy", f"it has finished with the accuracy {accuracy!r}"
        if not begun:
            return "without a trace", "it has finished, and its epochs.jsonl is not there or empty"
        missing = store.run(trial_id).missing_rows()
        if missing:
            return "with an incomplete trace", f"it has finished with {missing}"
    return "", None


def _named(folder: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Trial id, arm and seed from the name of a trial's folder."""
    match = _FOLDER.fullmatch(folder)
    known = match is not None and match["workload"] == asked["workload"]
    arm, seed = (match["arm"], int(match["seed"])) if match and known else (STRAY, NO_SEED)
    return {"trial_id": folder, "arm": arm, "seed": seed}


def _placed(record: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Arm, label and seed under which an unusable trial is counted."""
    arms = {arm["name"]: arm["label"] for arm in asked["arms"]}
    arm, seed = record["arm"], record["seed"]
    if arm not in arms and (asked.get("exploration") is None or arm == STRAY):
        return {"arm": STRAY, "label": "of no arm", "seed": NO_SEED}
    return {"arm": arm, "label": arms.get(arm, arm), "seed": seed}


def _row(record: dict[str, Any]) -> dict[str, Any]:
    head = {key: record.get(key) for key in (*TRIAL_KEYS, *RECORD_COLUMNS)}
    if record["status"] == UNUSABLE:
        return head | {"leakage": ""}
    method = record["config"].get("method")
    head["method"] = method.get("name") if isinstance(method, Mapping) else None
    return {**head, "leakage": leakage_note(record["leakage"]), **(record["summary"] or {})}


def _traces(results: Path, name: str) -> pd.DataFrame:
    table, store = trials(results), open_results(results)
    read = store.epochs if name == "epochs" else store.searches
    begun = table[table["trial_id"].notna() & (table["status"] != UNUSABLE)]
    keys = begun[list(TRIAL_KEYS)].to_dict("records")
    rows = [{**trial, **row} for trial in keys for row in read(str(trial["trial_id"]))]
    columns = dict.fromkeys([*TRIAL_KEYS, *(key for row in rows for key in row)])
    return pd.DataFrame(rows, columns=list(columns))


def _check(found: Sequence[Mapping[str, Any]], arms: Mapping[str, str], results: Path) -> None:
    sound = [record for record in found if record["status"] != UNUSABLE]
    explored = {record["arm"] for record in found} - {*arms, STRAY}
    allowed = "none for this; the figure coefficients is what explorations have"
    require(not explored, f"{results}: explored arms", len(explored), allowed)
    seen: dict[tuple[str, int], str] = {}
    for record in sound:
        first = seen.setdefault((record["arm"], record["seed"]), record["trial_id"])
        both = [first, record["trial_id"]]
        require(first == both[1], f"{results}: trials", both, "one trial of an arm and a seed")
