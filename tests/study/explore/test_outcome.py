import json
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from adacomcat.io.run import Status
from adacomcat.io.trace import EPOCHS
from study.explore.outcome import arm_status, read_outcome
from study.spec.expand import expand
from study.spec.schema import Experiment
from study.store import Results

Make = Callable[..., Experiment]


def arm(
    experiment: Experiment, results: Results, statuses: list[Status], rows: list[list[dict]]
) -> list[str]:
    """Trials of the first arm with these statuses and rows, one a seed."""
    specs = [spec for spec in expand(experiment) if spec.arm == "usual"]
    for spec, status, trace in zip(specs, statuses, rows, strict=True):
        results.add(spec)
        results.update(
            spec.trial_id,
            status,
            error="ValueError: broken\n\nTraceback",
            stopped={"rung": 1} if status == "stopped" else None,
            provenance={"git_commit": "c0ffee"},
        )
        text = "".join(f"{json.dumps(row)}\n" for row in trace)
        (results.folder(spec.trial_id) / EPOCHS).write_text(text)
    return [spec.trial_id for spec in specs]


def rows(*accuracies: float, **more: Any) -> list[dict[str, Any]]:
    return [{"val_acc": a, "searches": n} | more for n, a in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["finished", "finished"], "finished"),
        (["finished", "failed", "running"], "failed"),
        (["stopped", "stopped"], "stopped"),
        (["finished", "running"], "running"),
        (["interrupted", "pending"], "interrupted"),
        (["finished", "pending"], "pending"),
    ],
)
def test_where_an_arm_stands(statuses: list[Status], expected: Status) -> None:
    assert arm_status(statuses) == arm_status(statuses[::-1]) == expected


def test_a_finished_arm_has_means_and_deviations(exploration: Make, results: Results) -> None:
    experiment = exploration()
    ids = arm(experiment, results, ["finished"] * 2, [rows(0.1, 0.5, 0.9), rows(0.3, 0.5, 0.7)])
    outcome = read_outcome(ids, experiment.exploration, results)
    assert outcome.status == "finished"
    assert outcome.values == pytest.approx((0.8, 2.0))
    assert outcome.deviations == pytest.approx((statistics.stdev([0.9, 0.7]), 0.0))
    assert outcome.rungs == {1: pytest.approx((0.2, 0.0)), 2: pytest.approx((0.5, 1.0))}
    assert (outcome.epochs, outcome.commit, outcome.error) == (6, "c0ffee", None)


def test_a_single_seed_has_no_deviation(exploration: Make, results: Results) -> None:
    experiment = exploration(seeds=(0,))
    ids = arm(experiment, results, ["finished"], [rows(0.1, 0.5)])
    outcome = read_outcome(ids, experiment.exploration, results)
    assert outcome.values == (0.5, 1.0) and outcome.deviations is None


def test_a_stopped_arm_has_no_values_and_the_rungs_that_all_seeds_reached(
    exploration: Make, results: Results
) -> None:
    experiment = exploration()
    ids = arm(experiment, results, ["stopped"] * 2, [rows(0.1, 0.2), rows(0.3)])
    outcome = read_outcome(ids, experiment.exploration, results)
    assert (outcome.status, outcome.values, outcome.stopped) == ("stopped", None, {"rung": 1})
    assert outcome.rungs == {1: pytest.approx((0.2, 0.0))}
    assert outcome.epochs == 3


def test_one_failed_seed_fails_the_arm(exploration: Make, results: Results) -> None:
    experiment = exploration()
    ids = arm(experiment, results, ["finished", "failed"], [rows(0.5, 0.5), rows(0.5)])
    outcome = read_outcome(ids, experiment.exploration, results)
    assert (outcome.status, outcome.values) == ("failed", None)
    assert outcome.error == "ValueError: broken"


@pytest.mark.parametrize(
    ("trace", "named"),
    [
        (rows(0.1, float("nan")), "val_acc: got nan"),
        (rows(0.1, float("inf")), "val_acc: got inf"),
        ([{"searches": 1}, {"searches": 2}], "val_acc"),
        ([{"searches": 1, "val_acc": None}], "NoneType"),
        ([], "IndexError"),
    ],
)
def test_a_trace_without_sound_objectives_fails_the_arm(
    exploration: Make, results: Results, trace: list[dict[str, Any]], named: str
) -> None:
    experiment = exploration()
    ids = arm(experiment, results, ["finished"] * 2, [rows(0.5, 0.5), trace])
    outcome = read_outcome(ids, experiment.exploration, results)
    assert (outcome.status, outcome.values) == ("failed", None)
    assert outcome.error is not None and named in outcome.error


def test_a_trial_without_a_record_is_pending(exploration: Make, results: Results) -> None:
    experiment = exploration()
    assert read_outcome(["unknown"], experiment.exploration, results).status == "pending"
