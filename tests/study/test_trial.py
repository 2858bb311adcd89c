import os
from pathlib import Path
from typing import Any

import pytest
import torch

from adacomcat.config import TrialConfig
from adacomcat.training import Reporter
from study.cluster import Placement
from study.expand import expand
from study.overrides import build_config
from study.schema import Experiment, TrialSpec, Workload
from study.store import Results
from study.trial import (
    Job,
    Outcome,
    check_buildable,
    default_cache,
    failure_text,
    prepare_dense,
    run_spec,
    train_trial,
)

ONE_CPU = Placement("tune", 1, 1.0, 0.0, 1)
GIT: dict[str, Any] = {"git_commit": "abc", "git_dirty": True}
CLOCKS = {"images_per_s", "seconds"}


def job(root: Path, cache: Path, body: Any = train_trial, placement: Placement = ONE_CPU) -> Job:
    return Job(str(root), str(cache), placement, GIT, body)


def add(root: Path, spec: TrialSpec) -> Results:
    results = Results(root)
    results.add(spec)
    return results


def without_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in CLOCKS and not k.endswith("_s")} for row in rows
    ]


@pytest.fixture
def spec(tiny_experiment: Experiment) -> TrialSpec:
    return expand(tiny_experiment)[0]


def test_a_trial_leaves_its_trace_and_its_summary(
    tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    results = add(tmp_path, spec)
    reports: list[dict[str, Any]] = []
    run_spec(spec, job(tmp_path, dense_cache), reports.append)

    record = results.trial(spec.trial_id)
    assert record is not None
    assert (record["status"], record["error"]) == ("finished", None)
    assert record["started"] <= record["finished"]
    rows, searches = results.epochs(spec.trial_id), results.searches(spec.trial_id)
    assert [(r["phase"], r["epoch"]) for r in rows] == [
        ("search", 0), ("search", 1), ("search", 2), ("finetune", 0),
    ]  # fmt: skip
    assert [row["epoch"] for row in searches] == [1, 2] == record["summary"]["search_epochs"]
    assert reports == [*rows, {"status": "finished"}]
    provenance = record["provenance"]
    assert (provenance["git_commit"], provenance["git_dirty"]) == ("abc", True)
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert provenance["execution"]["executor"] == "tune"
    assert sorted(provenance["split_hashes"]) == ["search", "test", "train", "val"]


def test_a_resumed_trial_ends_with_the_trace_of_an_undisturbed_one(
    tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    whole = add(tmp_path / "whole", spec)
    run_spec(spec, job(tmp_path / "whole", dense_cache), lambda row: None)

    def stop(row: dict[str, Any]) -> None:
        if row.get("step_epoch") == 2:
            raise KeyboardInterrupt  # After the row is written, before the checkpoint is.

    broken = add(tmp_path / "broken", spec)
    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, job(tmp_path / "broken", dense_cache), stop)
    assert broken.status(spec.trial_id) == "running"
    assert len(broken.epochs(spec.trial_id)) == 3
    reports: list[dict[str, Any]] = []
    run_spec(spec, job(tmp_path / "broken", dense_cache), reports.append)
    assert [row["step_epoch"] for row in reports[:-1]] == [2, 3]

    def traces(results: Results) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        rows = results.epochs(spec.trial_id), results.searches(spec.trial_id)
        return without_clocks(rows[0]), without_clocks(rows[1])

    assert traces(broken) == traces(whole)
    assert len(traces(whole)[0]) == 4


def test_a_failure_is_recorded_and_not_raised(
    tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    def fail(config: TrialConfig, *, reporter: Reporter, **_: Any) -> Outcome:
        reporter.epoch({"step_epoch": 0, "searches": 0})
        raise RuntimeError("the disk is on fire\nsecond line")

    results = add(tmp_path, spec)
    reports: list[dict[str, Any]] = []
    run_spec(spec, job(tmp_path, dense_cache, fail), reports.append)
    record = results.trial(spec.trial_id)
    assert record is not None
    assert (record["status"], record["summary"]) == ("failed", None)
    assert record["error"].splitlines()[0] == "RuntimeError: the disk is on fire"
    assert "in fail\n" in record["error"]
    assert reports[-1] == {"status": "failed"}
    assert len(results.epochs(spec.trial_id)) == 1


def test_a_second_attempt_clears_the_failure_of_the_first(
    tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    def body(config: TrialConfig, *, directory: Path, **_: Any) -> Outcome:
        if not (directory / "second").exists():
            (directory / "second").touch()
            raise RuntimeError("once")
        return Outcome({"test_acc": 1.0})

    results = add(tmp_path, spec)
    for expected in ("failed", "finished"):
        run_spec(spec, job(tmp_path, dense_cache, body), lambda row: None)
        record = results.trial(spec.trial_id)
        assert record is not None
        assert record["status"] == expected
        assert (record["error"] is None) == (expected == "finished")


def test_a_worker_computes_with_the_threads_of_its_cpus(
    tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    seen: list[int] = []

    def body(config: TrialConfig, **_: Any) -> Outcome:
        seen.append(torch.get_num_threads())
        return Outcome({})

    before = torch.get_num_threads()
    add(tmp_path, spec)
    try:
        for cpus in (2.0, 1.0, 0.5):
            placement = Placement("tune", 1, cpus, 0.0, 1)
            run_spec(spec, job(tmp_path, dense_cache, body, placement), lambda row: None)
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 1, 1]


def test_the_failure_of_a_train_run_names_its_workers() -> None:
    class WorkersFailed(Exception):
        worker_failures = {1: ValueError("late"), 0: KeyError("x")}

    text = failure_text(WorkersFailed("both tracebacks"))
    assert text.splitlines() == [
        "KeyError: 'x' (worker 0)", "ValueError: late (worker 1)", "", "both tracebacks",
    ]  # fmt: skip


def test_the_dense_model_is_trained_once(tmp_path: Path, tiny_workload: Workload) -> None:
    config = build_config(tiny_workload.defaults)
    rows: list[dict[str, Any]] = []
    prepare_dense(config, tmp_path, "cpu", rows.append)
    prepare_dense(config, tmp_path, "cpu", rows.append)
    assert [(row["epoch"], row["epochs"]) for row in rows] == [(0, 1)]


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADACOMCAT_CACHE", "somewhere")
    assert default_cache() == Path(os.getcwd()) / "somewhere"
    monkeypatch.delenv("ADACOMCAT_CACHE")
    assert default_cache() == Path.home() / ".cache" / "adacomcat"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget.reduction": 0.999}, "budget.reduction: got 0.999, allowed: .*smallest reachable"),
        ({"method.spaec": "paper"}, "method.spaec: .*did you mean 'space'"),
        ({"method.name": "lowrnk"}, "method.name: .*did you mean 'lowrank'"),
        ({"model.name": "resnet"}, "model.name: got 'resnet'"),
        ({"data.name": "digit"}, "data.name: .*digits"),
        ({"schedule": {"kind": "once", "at": 9}}, "schedule: .*within the 3 epochs"),
    ],
)
def test_a_setting_that_the_engine_refuses_is_refused_before_any_trial(
    tiny_workload: Workload, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_buildable([build_config(tiny_workload.defaults, settings)])


def test_sound_trials_are_buildable_even_unresolved(tiny_experiment: Experiment) -> None:
    check_buildable([spec.trial_config() for spec in expand(tiny_experiment)])
