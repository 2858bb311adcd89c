"""Outcome of an arm, read from the records of its trials."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adacomcat.checks import require
from adacomcat.io.run import Status
from study import pareto
from study.spec.exploration import Exploration
from study.spec.objectives import losses, mean_values
from study.store import Results


@dataclass(frozen=True)
class ArmOutcome:
    """Outcome of an arm.

    Attributes:
        status: of the arm.
        values: means of the objectives over the seeds; None unless it is finished.
        deviations: their sample standard deviations; None where there is one seed.
        rungs: epochs -> the same means there, as far as all seeds have come.
        epochs: that were run, over all seeds.
        commit: of the code that ran it; None where that is unknown.
        error: why it failed, in one line.
        stopped: the decision that stopped it.
    """

    status: Status
    values: tuple[float, ...] | None = None
    deviations: tuple[float, ...] | None = None
    rungs: dict[int, tuple[float, ...]] = field(default_factory=dict)
    epochs: int = 0
    commit: str | None = None
    error: str | None = None
    stopped: dict[str, Any] | None = None


def arm_status(statuses: Sequence[Status]) -> Status:
    """Status of an arm from its trials: finished only if all are.

    A mean over fewer seeds would compare with no other, so one that failed decides.
    """
    order: tuple[Status, ...] = ("failed", "running", "interrupted", "pending", "stopped")
    return next((status for status in order if status in statuses), "finished")


def read_outcome(
    trial_ids: Sequence[str], exploration: Exploration, results: Results
) -> ArmOutcome:
    """Read the outcome of an arm so far.

    An objective that its rows lack, or that is no finite number, makes it a failed one.

    Args:
        trial_ids: of its seeds.
        exploration: gives the objectives and the rungs.
        results: where the trials are.
    """
    records = [results.trial(trial_id) for trial_id in trial_ids]
    known = [record for record in records if record is not None]
    status = arm_status([record["status"] if record else "pending" for record in records])
    commits = (r["provenance"]["git_commit"] for r in known if r["provenance"])
    details: dict[str, Any] = {"commit": next(commits, None)}
    if status == "failed":
        texts = (record["error"] for record in known if record["status"] == "failed")
        details["error"] = (next(texts) or "failed").partition("\n")[0]
    if status == "stopped":
        details["stopped"] = next(r["stopped"] for r in known if r["status"] == "stopped")
    try:
        traces = [results.epochs(trial_id) for trial_id in trial_ids]
        details["epochs"] = sum(map(len, traces))
        reached = min(map(len, traces))
        rungs = exploration.stopping.rungs if exploration.stopping else ()
        details["rungs"] = {
            rung: _values([rows[:rung] for rows in traces], exploration)
            for rung in rungs
            if rung <= reached
        }
        if status == "finished":
            details["values"] = _values(traces, exploration)
            details["deviations"] = _deviations(traces, exploration)
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        reason = f"its trace does not serve: {type(problem).__name__}: {problem}"
        return ArmOutcome("failed", **{"error": reason, **details})
    return ArmOutcome(status, **details)


def on_front(points: Sequence[tuple[float, ...] | None], objectives: Sequence[str]) -> list[bool]:
    """Arms that no other arm dominates, including equal ones.

    Args:
        points: objectives of each arm; None for one that has not finished, and is not on the front.
        objectives: their names.
    """
    missing = (math.nan,) * len(objectives)
    return pareto.on_front(
        [missing if point is None else losses(point, objectives) for point in points]
    )


def _values(
    traces: Sequence[Sequence[dict[str, Any]]], exploration: Exploration
) -> tuple[float, ...]:
    values = mean_values(traces, exploration.objectives)
    for name, value in zip(exploration.objectives, values, strict=True):
        require(math.isfinite(value), name, value, "a finite number")
    return values


def _deviations(
    traces: Sequence[Sequence[dict[str, Any]]], exploration: Exploration
) -> tuple[float, ...] | None:
    if len(traces) < 2:
        return None
    seeds = [mean_values([rows], exploration.objectives) for rows in traces]
    return tuple(float(value) for value in np.std(seeds, axis=0, ddof=1))
