"""Results of an exploration as a table.

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

PLANS = ("stands still", "always changes")
"""Plans that a rule is tried on: the distances between those of its searches are 0, or 1."""

PREFIX = "params_"
"""Prefix of the columns that hold an arm's parameters."""

ARM = ("arm", "label", "reference", "status", "on_front", "seeds", "leakage")


def table(results: Path) -> pd.DataFrame:
    """One row per arm that was started, in the order of the study.

    Columns: `workload`, then `ARM` and `mark`, the letter of an arm of the front, best first, else
    empty; each objective (the mean over the seeds, nan unless the arm is finished) and its standard
    deviation `OBJECTIVE_sd`; each parameter as `params_NAME`, a number or a text, nan where the arm
    does not have it; `stopped_after`, the epochs after which it was stopped early, else nan;
    `PLAN` of `PLANS`, the epochs at which the rule of an arm of the front searches on such plans,
    else empty; `left_out` and `left_out_why`, the arms that have not finished, the same in all
    rows. `leakage` is a sentence where an arm's search or selection saw the test images.

    `attrs` has `objectives` and `parameters`, their names, and `importance`: objective -> parameter
    -> share (0..1), or a text that says why there is none.

    Raises:
        ValueError: as `load.study`, no exploration, or files that are not there, do not read, or
            have no finished arm.
    """
    study = load.study(results)
    asked = study.get("exploration")
    require(asked is not None, f"{results}: exploration", None, "a study that explores a space")
    assert isinstance(asked, dict)
    arms, front = (_read(results / f"{name}.csv", asked) for name in ("arms", "front"))
    counts = arms["status"].value_counts().sort_index().drop("finished", errors="ignore").to_dict()
    done = int((arms["status"] == "finished").sum())
    require(done > 0, f"{results}/arms.csv", counts, "an exploration with a finished arm")
    marks = {arm: letter(index) for index, arm in enumerate(front["arm"])}
    arms["mark"] = arms["arm"].map(marks).fillna("")
    arms["stopped_after"] = arms["arm"].map(_stopped(results / "rungs.jsonl")).astype(float)
    rules = _rules(results, list(marks))
    for plan in PLANS:
        arms[plan] = [rules.get(arm, {}).get(plan, "") for arm in arms["arm"]]
    arms["left_out"] = sum(counts.values())
    arms["left_out_why"] = ", ".join(f"{count} {status}" for status, count in counts.items())
    arms.insert(0, "workload", study["workload"])
    arms.attrs = {
        "objectives": list(asked["objectives"]),
        "parameters": [PREFIX + dimension["name"] for dimension in asked["space"]],
        "importance": _importance(results / "importance.json", asked["objectives"]),
    }
    return arms


def letter(index: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    turn, place = divmod(index, 26)
    return f"{chr(ord('A') + place)}{turn or ''}"


def simulate(config: Mapping[str, Any], epochs: int, distance: float) -> list[tuple[bool, float]]:
    """Run a schedule over the epochs of a search phase on plans that are all equally far apart.

    Args:
        config: of `build_schedule`.
        epochs: of the search phase.
        distance: between the plan in force and the plan that each search but the first finds.

    Returns:
        For each epoch whether it searches, and F(t) after it; nan where the schedule has none.

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
    """A table of arms with the columns that `table` names."""
    require(path.is_file(), str(path), "no file", "the table that a finished exploration writes")
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # Also pandas' own errors.
        raise ValueError(f"{path}: not a table ({error})") from None
    objectives, params = asked["objectives"], {PREFIX + d["name"]: d for d in asked["space"]}
    absent = [name for name in (*ARM[:-1], *objectives) if name not in found]
    require(not absent, f"{path}: columns", list(found), f"also {', '.join(absent)}")
    deviations = [f"{name}_sd" for name in objectives]
    found = found.reindex(columns=[*ARM, *objectives, *deviations, *params], fill_value="")
    for name in ("reference", "on_front"):
        found[name] = found[name] == "True"
    numbers = [name for name, dimension in params.items() if dimension["kind"] != "choice"]
    for name in ["seeds", *objectives, *deviations, *numbers]:
        found[name] = pd.to_numeric(found[name], errors="coerce")
    found["leakage"] = [leakage_note(uses.split()) for uses in found["leakage"]]
    return found


def _importance(path: Path, objectives: Sequence[str]) -> dict[str, dict[str, float] | str]:
    require(path.is_file(), str(path), "no file", "what a finished exploration writes")
    try:
        found = json.loads(path.read_bytes())
        shares, reasons = found["importance"], found.get("reasons", {})
        return {o: shares.get(o) or str(reasons.get(o, "no importance")) for o in objectives}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: not the importance of parameters") from None


def _rules(results: Path, front: Sequence[str]) -> dict[str, dict[str, str]]:
    """Arm of the front -> plan of `PLANS` -> the epochs at which its schedule searches."""
    configs: dict[str, Mapping[str, Any]] = {}
    for record in load.usable(results).values():
        configs.setdefault(record["arm"], record["config"])
    rules: dict[str, dict[str, str]] = {}
    for arm in front:
        config = configs.get(arm, {})
        for plan, distance in zip(PLANS, (0.0, 1.0), strict=True):
            try:
                trace = simulate(config["schedule"], config["search_phase"]["epochs"], distance)
            except (KeyError, ValueError):
                break  # A schedule that only exists once another arm has run.
            epochs = [str(epoch) for epoch, (due, _) in enumerate(trace) if due]
            rules.setdefault(arm, {})[plan] = " ".join(epochs) or "none"
    return rules


def _stopped(path: Path) -> dict[str, int]:
    """Arm -> the epochs after which the pruner stopped it; none where nothing may be stopped."""
    found: dict[str, int] = {}
    for number, decision in enumerate(read_rows(path), start=1):
        try:
            if decision["stop"]:
                found[decision["arm"]] = decision["rung"]
        except KeyError:
            raise ValueError(f"{path}, line {number}: not a decision") from None
    return found
