import io
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from adacomcat.config import TrialConfig
from study.execution.body import Outcome, prepare_dense, train_trial
from study.execution.cluster import node_resources
from study.execution.loggers import make_callbacks
from study.execution.nested import RETRIES
from study.execution.placement import Request, place
from study.execution.trial import Job, ray_folder
from study.execution.tuner import resolve_spec, run_study
from study.show.progress import StudyProgress
from study.spec.expand import expand
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

# What goes wrong with Ray hangs.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

GIT: dict[str, Any] = {"git_commit": None, "git_dirty": None}


def body_by_arm(config: TrialConfig, *, directory: Path, **_: Any) -> Outcome:
    """`each` fails, `once` dies, and the others write down in which process they ran."""
    if config.schedule["kind"] == "fixed":
        raise RuntimeError("on purpose")
    if config.schedule["kind"] == "once":
        os.kill(os.getpid(), 9)
    return Outcome({"test_acc": 1.0, "searches": 0, "params": 1, "pid": os.getpid()})


def run(
    experiment: Experiment,
    root: Path,
    cache: Path,
    request: Request,
    body: Any = train_trial,
    log_to: Sequence[str] = (),
) -> tuple[list[TrialSpec], Results, list[str], str]:
    """Run a study as the command line does; returns what it left and what it printed."""
    specs, results, out = expand(experiment), Results(root), io.StringIO()
    results.begin(experiment, command="run", provenance=GIT)
    for spec in specs:
        results.add(spec)
    placement = place(request, node_resources())
    job = Job(str(root), str(cache), placement, GIT, body, report_every_s=0)
    loggers = make_callbacks(log_to, root, experiment.name)
    with StudyProgress(Console(file=out), experiment, results) as progress:
        run_study(experiment, job, progress, loggers)
    unfinished = [s.trial_id for s in specs if results.status(s.trial_id) != "finished"]
    return specs, results, unfinished, out.getvalue()


def test_trials_run_under_tune_each_after_those_it_needs(
    ray_cluster: Any, tmp_path: Path, dense_cache: Path, tiny_experiment: Experiment
) -> None:
    prepare_dense(expand(tiny_experiment)[0].trial_config(), dense_cache, "cpu", None)
    specs, results, unfinished, text = run(tiny_experiment, tmp_path, dense_cache, Request())
    assert unfinished == []
    records = [results.trial(spec.trial_id) for spec in specs]
    each, once, best = (record for record in records if record is not None)
    assert [r["status"] for r in (each, once, best)] == ["finished"] * 3
    assert best["config"]["schedule"]["kind"] == "explicit"
    assert best["summary"]["searches"] == once["summary"]["searches"] == 1
    assert best["started"] >= max(each["finished"], once["finished"])
    assert [len(results.epochs(s.trial_id)) for s in specs] == [4, 4, 4]
    assert text.count("finished ") == 3
    assert not ray_folder(tmp_path).exists()
    assert not (tmp_path / "logs").exists()

    # Once more: nothing is left to do.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/*.json*")}
    assert run(tiny_experiment, tmp_path, dense_cache, Request())[2:] == ([], "")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/*.json*")} == before


def test_tensorboard_has_a_curve_for_each_trial(
    ray_cluster: Any, tmp_path: Path, dense_cache: Path, tiny_experiment: Experiment
) -> None:
    one = tiny_experiment.model_copy(update={"arms": tiny_experiment.arms[:1]})
    (spec,), results, unfinished, _ = run(
        one, tmp_path, dense_cache, Request(), log_to=["tensorboard"]
    )
    assert unfinished == []
    (file,) = (tmp_path / "logs").rglob("events.out.tfevents.*")
    assert file.parent.name == spec.trial_id
    rows = results.epochs(spec.trial_id)
    found = scalars(file, "ray/tune/val_acc")
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx([row["val_acc"] for row in rows])


def scalars(path: Path, tag: str) -> list[tuple[int, float]]:
    """Step and value of a curve; each record is a length, a checksum, an event, a checksum."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(event.step, v.simple_value) for v in event.summary.value if v.tag == tag]
        at += 12 + length + 4
    return found


def test_a_train_run_of_two_workers_leaves_the_same_columns(
    ray_cluster: Any, tmp_path: Path, dense_cache: Path, tiny_experiment: Experiment
) -> None:
    one = tiny_experiment.model_copy(update={"arms": tiny_experiment.arms[:1]})
    prepare_dense(expand(one)[0].trial_config(), dense_cache, "cpu", None)
    rows, searches, summaries, executors = [], [], [], []
    for workers in (1, 2):
        root = tmp_path / str(workers)
        (spec,), results, unfinished, _ = run(one, root, dense_cache, Request(workers=workers))
        record = results.trial(spec.trial_id)
        assert record is not None
        assert unfinished == [], record["error"]
        executors.append(record["provenance"]["execution"]["executor"])
        rows.append(results.epochs(spec.trial_id))
        searches.append(results.searches(spec.trial_id))
        summaries.append(record["summary"])
    assert executors == ["tune", "train"]
    assert [list(row) for row in rows[0]] == [list(row) for row in rows[1]]
    assert [list(row) for row in searches[0]] == [list(row) for row in searches[1]]
    assert list(summaries[0]) == list(summaries[1])
    # Two workers see the same images in batches of the same size, in the sum.
    assert rows[1][0]["loss"] == pytest.approx(rows[0][0]["loss"], rel=0.05)


def test_a_failing_and_a_dying_trial_do_not_stop_the_study(
    ray_cluster: Any, tmp_path: Path, dense_cache: Path, tiny_experiment: Experiment
) -> None:
    never = tiny_experiment.arms[0].model_copy(
        update={"name": "never", "overrides": {"schedule": {"kind": "never"}}}
    )
    experiment = tiny_experiment.model_copy(update={"arms": (*tiny_experiment.arms, never)})
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Workers cannot import this file.
    try:
        specs, results, unfinished, text = run(
            experiment, tmp_path, dense_cache, Request(), body_by_arm
        )
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    errors = {spec.arm: (results.trial(spec.trial_id) or {})["error"] for spec in specs}
    status = {spec.arm: results.status(spec.trial_id) for spec in specs}
    assert status == {"each": "failed", "once": "failed", "best": "failed", "never": "finished"}
    assert unfinished == [spec.trial_id for spec in specs[:3]]
    assert errors["each"].startswith("RuntimeError: on purpose\n")
    assert "died" in errors["once"]
    needed = specs[0].trial_id
    assert f"best needs the trial {needed}, which is failed" in errors["best"].splitlines()[0]
    events = [(line.split()[1], line.split()[2].split("-")[1]) for line in text.splitlines()]
    # Who takes its worker along gets another one, until it has had its share of them.
    starts = {arm: events.count(("started", arm)) for arm in status}
    assert starts == {"each": 1, "once": 1 + RETRIES, "best": 1, "never": 1}
    ended = sorted(event for event in events if event[0] != "started")
    assert ended == sorted((event, arm) for arm, event in status.items())


def test_a_trial_is_not_resolved_before_its_needs_are_finished(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    each, _, best = expand(tiny_experiment)
    results = Results(tmp_path)
    with pytest.raises(ValueError, match=f"best needs the trial {each.trial_id}, which is pending"):
        resolve_spec(best, results)
    assert resolve_spec(each, results) == each
