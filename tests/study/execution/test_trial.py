import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import OutOfMemoryError

from adacomcat.config import TrialConfig
from adacomcat.testing.images import write_image_folder
from study.execution.body import Outcome, train_trial
from study.execution.placement import Placement
from study.execution.trial import TOLD, ArmRun, Job, Pruning, failure_text, run_arm
from study.explore.pruner import Pruner
from study.spec.expand import apply_settings, expand
from study.spec.exploration import Stopping
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

ONE_CPU = Placement("tune", 1, 1.0, 0.0, 1)
GIT: dict[str, Any] = {"git_commit": "abc", "git_dirty": True}
CLOCKS = {"images_per_s", "seconds"}


def job(root: Path, cache: Path, body: Any = train_trial, placement: Placement = ONE_CPU) -> Job:
    return Job(str(root), str(cache), placement, GIT, body, report_every_s=0)


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
    run_arm([spec.trial_id], job(tmp_path, dense_cache), reports.append)

    record = results.trial(spec.trial_id)
    assert record is not None
    assert (record["status"], record["error"]) == ("finished", None)
    assert record["started"] <= record["finished"]
    rows, searches = results.epochs(spec.trial_id), results.searches(spec.trial_id)
    assert [(r["phase"], r["epoch"]) for r in rows] == [
        ("search", 0),
        ("search", 1),
        ("search", 2),
        ("finetune", 0),
    ]
    assert [row["epoch"] for row in searches] == [1, 2] == record["summary"]["search_epochs"]
    who = {"trial": spec.trial_id, "seed": spec.seed}
    assert reports == [
        *(
            who | {name: row[name] for name in TOLD} | {"training_iteration": number}
            for number, row in enumerate(rows, start=1)
        ),
        {"trial": spec.trial_id, "status": "finished"},
    ]
    lines = (results.folder(spec.trial_id) / "trial.log").read_text().splitlines()
    waited = [line for line in lines if "of the training time spent waiting for data" in line]
    assert len(waited) == len(rows)
    provenance = record["provenance"]
    assert (provenance["git_commit"], provenance["git_dirty"]) == ("abc", True)
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert provenance["execution"]["executor"] == "tune"
    assert sorted(provenance["split_hashes"]) == ["search", "test", "train", "val"]


@pytest.mark.parametrize("copied", [False, True])
def test_leakage_that_only_contents_show_is_in_the_record(
    tmp_path: Path, dense_cache: Path, tiny_experiment: Experiment, copied: bool
) -> None:
    root = write_image_folder(tmp_path / "images", classes=2, train=72, val=12, side=8)
    if copied:
        # Under other names, as in a data set that was put together carelessly. (Where all images of
        # `val` are in `train`, it is refused.)
        for path in sorted((root / "val").rglob("*.jpg"))[1:]:
            shutil.copy(path, root / "train" / path.parent.name / f"again_{path.name}")
    data = {"name": "imagefolder", "root": str(root), "image_size": 8, "options": {}}
    spec = expand(apply_settings(tiny_experiment, {"data": data}))[0]
    assert spec.leakage == ()
    results = add(tmp_path / "results", spec)
    run_arm([spec.trial_id], job(tmp_path / "results", dense_cache), lambda row: None)
    record = results.trial(spec.trial_id)
    assert record is not None and record["status"] == "finished"
    assert record["leakage"] == (["training", "search", "selection"] if copied else [])


def test_a_resumed_trial_ends_with_the_trace_of_an_undisturbed_one(
    tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    whole = add(tmp_path / "whole", spec)
    run_arm([spec.trial_id], job(tmp_path / "whole", dense_cache), lambda row: None)

    def stop(row: dict[str, Any]) -> None:
        if row.get("step_epoch") == 2:
            raise KeyboardInterrupt  # After the row is written, before the checkpoint is.

    broken = add(tmp_path / "broken", spec)
    with pytest.raises(KeyboardInterrupt):
        run_arm([spec.trial_id], job(tmp_path / "broken", dense_cache), stop)
    assert broken.status(spec.trial_id) == "running"
    assert len(broken.epochs(spec.trial_id)) == 3
    reports: list[dict[str, Any]] = []
    run_arm([spec.trial_id], job(tmp_path / "broken", dense_cache), reports.append)
    assert [row["step_epoch"] for row in reports[:-1]] == [2, 3]

    def traces(results: Results) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        rows = results.epochs(spec.trial_id), results.searches(spec.trial_id)
        return without_clocks(rows[0]), without_clocks(rows[1])

    assert traces(broken) == traces(whole)
    assert len(traces(whole)[0]) == 4


def test_a_failure_is_recorded_and_not_raised(
    tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    def fail(config: TrialConfig, **arguments: Any) -> Outcome:
        train_trial(config, **arguments | {"until": 1})
        raise RuntimeError("the disk is on fire\nsecond line")

    results = add(tmp_path, spec)
    reports: list[dict[str, Any]] = []
    run_arm([spec.trial_id], job(tmp_path, dense_cache, fail), reports.append)
    record = results.trial(spec.trial_id)
    assert record is not None
    assert (record["status"], record["summary"]) == ("failed", None)
    assert record["error"].splitlines()[0] == "RuntimeError: the disk is on fire"
    assert "in fail\n" in record["error"]
    assert reports[-1] == {"trial": spec.trial_id, "status": "failed"}
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
        run_arm([spec.trial_id], job(tmp_path, dense_cache, body), lambda row: None)
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
    try:
        for cpus in (2.0, 1.0, 0.5):
            add(tmp_path, spec).update(spec.trial_id, "pending")
            placement = Placement("tune", 1, cpus, 0.0, 1)
            run_arm([spec.trial_id], job(tmp_path, dense_cache, body, placement), lambda row: None)
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 1, 1]


def test_the_failure_of_a_train_run_names_its_workers() -> None:
    class WorkersFailed(Exception):
        worker_failures = {1: ValueError("late"), 0: KeyError("x")}

    text = failure_text(WorkersFailed("both tracebacks"))
    assert text.splitlines() == [
        "KeyError: 'x' (worker 0)",
        "ValueError: late (worker 1)",
        "",
        "both tracebacks",
    ]


@pytest.fixture
def seeds(tiny_experiment: Experiment) -> list[TrialSpec]:
    """The same arm with three seeds."""
    wide = tiny_experiment.model_copy(update={"seeds": (0, 1, 2)})
    return [spec for spec in expand(wide) if spec.arm == "each"]


def test_the_seeds_of_an_arm_run_in_step_from_rung_to_rung(
    tmp_path: Path, dense_cache: Path, seeds: list[TrialSpec]
) -> None:
    plain = Results(tmp_path / "plain")
    for spec in seeds:
        plain.add(spec)
        run_arm([spec.trial_id], job(plain.root, dense_cache), lambda row: None)

    results = Results(tmp_path / "pruned")
    for spec in seeds:
        results.add(spec)
    stopping = Stopping(rungs=(1, 3))
    pruner = Pruner(stopping, ("val_acc", "searches"), [], results.root / "rungs.jsonl")
    asked: list[tuple[int, list[int], Any]] = []

    def ask(arm: str, rung: int, values: Any) -> Any:
        asked.append((rung, [len(results.epochs(s.trial_id)) for s in seeds], values))
        return pruner.decide(arm, rung, values)

    pruning = Pruning(ask, ("val_acc", "searches"), stopping.rungs)
    pruned = replace(job(results.root, dense_cache), pruning=pruning)
    reports: list[dict[str, Any]] = []
    run_arm([s.trial_id for s in seeds], pruned, reports.append)

    # Ray's loggers ignore a step that is smaller than one before.
    steps = [row["training_iteration"] for row in reports if "step_epoch" in row]
    assert steps == list(range(1, 13))
    assert [entry[:2] for entry in asked] == [(1, [1, 1, 1]), (3, [3, 3, 3])]
    for rung, _, values in asked:
        rows = [results.epochs(spec.trial_id)[rung - 1] for spec in seeds]
        means = [sum(row[name] for row in rows) / 3 for name in ("val_acc", "searches")]
        assert values == pytest.approx(means)
    # Pausing at the rungs leaves no mark in the traces.
    for spec in seeds:
        assert results.status(spec.trial_id) == "finished"
        assert without_clocks(results.epochs(spec.trial_id)) == without_clocks(
            plain.epochs(spec.trial_id)
        )


def test_a_stopped_arm_ends_at_its_rung_and_is_not_run_again(
    tmp_path: Path, dense_cache: Path, seeds: list[TrialSpec]
) -> None:
    results = Results(tmp_path)
    for spec in seeds:
        results.add(spec)
    pruner = Pruner(Stopping(rungs=(2,), peers=2), ("val_acc",), [], tmp_path / "rungs.jsonl")
    for name in ("best", "good"):
        pruner.decide(name, 2, (2.0,))
    pruning = Pruning(pruner.decide, ("val_acc",), (2,))
    pruned = replace(job(tmp_path, dense_cache), pruning=pruning)
    reports: list[dict[str, Any]] = []
    run_arm([s.trial_id for s in seeds], pruned, reports.append)
    for spec in seeds:
        record = results.trial(spec.trial_id)
        assert record is not None
        assert (record["status"], record["summary"]) == ("stopped", None)
        assert record["stopped"]["rung"] == 2 and record["stopped"]["stop"] is True
        assert len(results.epochs(spec.trial_id)) == 2
    assert [r["status"] for r in reports if "status" in r] == ["stopped"] * 3
    reports.clear()
    run_arm([s.trial_id for s in seeds], pruned, reports.append)
    assert reports == [{"trial": spec.trial_id, "kept": True} for spec in seeds]


def test_every_worker_of_a_stopped_arm_reports_as_often_as_the_first(
    tmp_path: Path, dense_cache: Path, seeds: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train's report returns when all workers have called it: one call less is a deadlock."""
    pruner = Pruner(Stopping(rungs=(2,), peers=2), ("val_acc",), [], tmp_path / "rungs.jsonl")
    for name in ("best", "good"):
        pruner.decide(name, 2, (2.0,))
    said: list[Any] = []
    reports: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for first in (True, False):
        results = Results(tmp_path / str(first))
        for spec in seeds:
            results.add(spec)
        pruned = replace(
            job(results.root, dense_cache), pruning=Pruning(pruner.decide, ("val_acc",), (2,))
        )

        # The two run one after the other here, so the second is told what the first one said.
        def tell(value: Any, first: bool = first) -> Any:
            if first:
                said.append(value)
            return value if first else said.pop(0)

        monkeypatch.setattr("study.execution.trial.from_first_worker", tell)
        ArmRun(seeds, pruned, "cpu", reports[first].append, first=first).run()
    assert not said
    names = [[(row["trial"], row.get("status")) for row in reports[first]] for first in reports]
    assert names[0] == names[1]
    assert [status for _, status in names[0] if status] == ["stopped"] * 3


def test_a_failing_seed_fails_its_arm(
    tmp_path: Path, dense_cache: Path, seeds: list[TrialSpec]
) -> None:
    def body(config: TrialConfig, **_: Any) -> Outcome:
        if config.seed == 1:
            raise ValueError("the second seed")
        return Outcome({"test_acc": 1.0})

    results = Results(tmp_path)
    for spec in seeds:
        results.add(spec)
    run_arm([s.trial_id for s in seeds], job(tmp_path, dense_cache, body), lambda row: None)
    assert [results.status(s.trial_id) for s in seeds] == ["finished", "failed", "failed"]
    for spec in seeds[1:]:
        record = results.trial(spec.trial_id)
        assert record is not None and record["error"].startswith("ValueError: the second seed\n")


def killed(text: str) -> Exception:
    return OutOfMemoryError(
        f"1 worker(s) were killed due to the node running low on memory. {text}"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (killed("more"), "memory_short"),
    ],
)
def test_a_full_disk_or_memory_is_no_failure_of_the_trial(
    error: Exception, told: str, tmp_path: Path, dense_cache: Path, spec: TrialSpec
) -> None:
    def body(config: TrialConfig, **_: Any) -> Outcome:
        raise error

    results = add(tmp_path, spec)
    reports: list[dict[str, Any]] = []
    run_arm([spec.trial_id], job(tmp_path, dense_cache, body), reports.append)
    assert reports == [{"trial": spec.trial_id, told: str(error)}]
    assert results.status(spec.trial_id) == "running"
