"""What an exploration left in its results directory, as one tidy table.

Read from `arms.csv`, `front.csv`, `importance.json` and `rungs.jsonl`, which the study writes, and
from the configurations of its trials; Optuna is not needed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adacomcat.checks import require
from adacomcat.config import leakage_note
from adacomcat.io.trace import read_rows
from adacomcat.schedule import build_schedule
from analysis import load

PARTS = ("objective", "parameter", "importance", "rule", "stopped")

COLUMNS = (
    "part",
    "workload",
    "arm",
    "label",
    "mark",
    "reference",
    "status",
    "on_front",
    "seeds",
    "name",
    "objective",
    "value",
    "sd",
    "choice",
    "epoch",
    "searched",
    "plan",
    "left_out",
    "left_out_why",
    "leakage",
)

PLANS = ("stands still", "always changes")
"""What a rule is tried on: distances of 0, or of 1, between the plans of its searches."""

PREFIX = "params_"


def space(results: Path) -> dict[str, Any]:
    """The exploration of a study: `space`, `objectives` and more, as `study.json` has it.

    Raises:
        ValueError: as `load.study`, or the study has no exploration.
    """
    found = load.study(results).get("exploration")
    require(found is not None, f"{results}: exploration", None, "a study that explores a space")
    assert isinstance(found, dict)
    return found


def table(results: Path) -> pd.DataFrame:
    """The exploration in long form, with the columns `COLUMNS`; a row is by its `part`

    - `objective`: an arm that was started and an objective, `name`: its mean `value` over `seeds`
      and their standard deviation `sd`; both nan unless the arm is finished.
    - `parameter`: an arm and a parameter that it has, `name`: a number as `value`, else `choice`.
    - `importance`: a parameter, `name`, and an `objective`: its share `value` (0..1); nan where
      there is none, with the cause in `choice`.
    - `rule`: an arm of the front, an `epoch` of the search phase, and a `plan` of `PLANS`: the
      interval F(t) after the epoch as `value`, nan where the schedule has none, and `searched`.
    - `stopped`: an arm that was stopped early, and an objective, `name`: its `value` then, after
      `epoch` epochs.

    `mark` is the letter of an arm of the front, best first. `left_out` counts the arms that have
    not finished and `left_out_why` says how they stand, the same in all rows; `leakage` is a
    sentence where an arm's search or selection saw the test images.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `space`, the tables are not there, do not read, or have no finished arm.
    """
    asked, workload = space(results), load.study(results)["workload"]
    arms, front = (_read(results / f"{name}.csv", asked) for name in ("arms", "front"))
    done = int((arms["status"] == "finished").sum())
    counts = arms["status"].value_counts().sort_index()
    missing = {str(status): int(n) for status, n in counts.items() if status != "finished"}
    require(done > 0, f"{results}/arms.csv", missing, "an exploration with a finished arm")
    marks = {arm: letter(index) for index, arm in enumerate(front["arm"])}
    rows = [row for _, arm in arms.iterrows() for row in _arm_rows(arm, asked, marks)]
    rows += _importance_rows(results / "importance.json", asked)
    rows += _rule_rows(results, front, marks)
    rows += _stopped_rows(results / "rungs.jsonl", asked, arms)
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    made["workload"], made["left_out"] = workload, sum(missing.values())
    made["left_out_why"] = ", ".join(f"{count} {status}" for status, count in missing.items())
    made["leakage"] = made["leakage"].fillna("")
    numbers = ["value", "sd", "epoch", "seeds"]
    made[numbers] = made[numbers].astype(float)
    return made


def letter(index: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    turn, place = divmod(index, 26)
    return f"{chr(ord('A') + place)}{turn or ''}"


def simulate(config: Mapping[str, Any], epochs: int, distance: float) -> list[tuple[bool, float]]:
    """Run a schedule over the epochs of a search phase on plans that are all equally far apart.

    Args:
        config: what `build_schedule` takes.
        epochs: of the search phase.
        distance: between the plan in force and the plan that each search but the first finds.

    Returns:
        Of each epoch whether it searches, and F(t) after it; nan where the schedule has none.

    Raises:
        ValueError: as `build_schedule`.
    """
    schedule = build_schedule(config)
    trace = []
    for epoch in range(epochs):
        due = schedule.due(epoch)
        if due:
            schedule.observe(epoch, None if schedule.last_search is None else distance)
        trace.append((due, math.nan if schedule.interval is None else float(schedule.interval)))
    return trace


def _read(path: Path, asked: Mapping[str, Any]) -> pd.DataFrame:
    """A table of arms; all texts, but for numbers and flags."""
    require(path.is_file(), str(path), "no file", "the table that a finished exploration writes")
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # Also pandas' own errors.
        raise ValueError(f"{path}: not a table ({error})") from None
    needed = ["arm", "label", "reference", "status", "on_front", "seeds", *asked["objectives"]]
    absent = [name for name in needed if name not in found]
    require(not absent, f"{path}: columns", list(found), f"also {', '.join(absent)}")
    for name in ("reference", "on_front"):
        found[name] = found[name] == "True"
    deviations = [f"{name}_sd" for name in asked["objectives"]]
    for name in [*asked["objectives"], *deviations, "seeds"]:
        if name in found:
            found[name] = pd.to_numeric(found[name], errors="coerce")
    return found


def _arm_rows(
    arm: pd.Series, asked: Mapping[str, Any], marks: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The objectives and the parameters of one arm."""
    keys = ("arm", "label", "reference", "status", "on_front", "seeds")
    head = {key: arm[key] for key in keys} | {
        "mark": marks.get(arm["arm"], ""),
        "leakage": leakage_note(str(arm.get("leakage", "")).split()),
    }
    rows = [
        {**head, "part": "objective", "name": name, "value": arm[name], "sd": arm.get(f"{name}_sd")}
        for name in asked["objectives"]
    ]
    for dimension in asked["space"]:
        text = arm.get(PREFIX + dimension["name"], "")
        if text == "":
            continue
        choice = dimension["kind"] == "choice"
        row = {**head, "part": "parameter", "name": dimension["name"]}
        rows.append(row | ({"choice": text} if choice else {"value": float(text)}))
    return rows


def _importance_rows(path: Path, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    require(path.is_file(), str(path), "no file", "what a finished exploration writes")
    try:
        found = json.loads(path.read_bytes())
        shares, reasons = found["importance"], found.get("reasons", {})
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the importance of parameters") from None
    rows = []
    for objective in asked["objectives"]:
        row = {"part": "importance", "objective": objective}
        for name, share in (shares.get(objective) or {}).items():
            rows.append({**row, "name": name, "value": share})
        if not shares.get(objective):
            rows.append({**row, "choice": reasons.get(objective, "no importance")})
    return rows


def _rule_rows(
    results: Path, front: pd.DataFrame, marks: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What the schedule of each arm of the front does; an arm without a schedule has no row."""
    configs: dict[str, Mapping[str, Any]] = {}
    for record in load.usable(results).values():
        configs.setdefault(record["arm"], record["config"])
    rows: list[dict[str, Any]] = []
    for _, arm in front.iterrows():
        config = configs.get(arm["arm"])
        if config is None:
            continue
        head = {"part": "rule", "mark": marks[arm["arm"]], "on_front": True}
        head |= {key: arm[key] for key in ("arm", "label", "reference", "status", "seeds")}
        head["leakage"] = leakage_note(str(arm.get("leakage", "")).split())
        for plan, distance in zip(PLANS, (0.0, 1.0), strict=True):
            try:
                trace = simulate(config["schedule"], config["search_phase"]["epochs"], distance)
            except ValueError:
                break  # A schedule that only exists once another arm has run.
            rows += [
                {**head, "plan": plan, "epoch": epoch, "searched": due, "value": interval}
                for epoch, (due, interval) in enumerate(trace)
            ]
    return rows


def _stopped_rows(path: Path, asked: Mapping[str, Any], arms: pd.DataFrame) -> list[dict[str, Any]]:
    """The verdicts that stopped an arm; none where nothing may be stopped."""
    labels = dict(zip(arms["arm"], arms["label"], strict=True))
    rows: list[dict[str, Any]] = []
    for number, verdict in enumerate(read_rows(path), start=1):
        try:
            stop, values = verdict["stop"], list(verdict["values"])
            head = {"part": "stopped", "arm": verdict["arm"], "epoch": verdict["rung"]}
        except (KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: not a verdict") from None
        if stop:
            head |= {"label": labels.get(head["arm"], head["arm"]), "status": "stopped"}
            pairs: Sequence[tuple[str, float]] = list(
                zip(asked["objectives"], values, strict=False)
            )
            rows += [{**head, "name": name, "value": value} for name, value in pairs]
    return rows
