import importlib.util
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from tensorboardX.proto.event_pb2 import Event

from study.execution.loggers import TrialLogger, make_callbacks
from study.spec.expand import expand
from study.spec.schema import Experiment, TrialSpec
from study.store import Results, TraceWriter


def row(step: int, accuracy: float) -> dict[str, Any]:
    return {
        "phase": "search",
        "epoch": step,
        "step_epoch": step,
        "val_acc": accuracy,
        "interval": None,
        "searched": step == 1,
        "searches": 1,
        "params": 1000,
    }


def accuracy(seed: int, step: int) -> float:
    return (seed + 1) / (step + 2)


def arm_of_two(experiment: Experiment) -> list[TrialSpec]:
    two = experiment.model_copy(update={"seeds": (0, 1)})
    return [spec for spec in expand(two) if spec.arm == "each"]


def write(root: Path, spec: TrialSpec, steps: range) -> None:
    Results(root).add(spec)
    writer = TraceWriter(Results(root).folder(spec.trial_id))
    for step in steps:
        writer.epoch(row(step, accuracy(spec.seed, step)))
    writer.close()


def curves(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What one event file holds; its records are a length, a checksum, the event, a checksum."""
    (path,) = folder.iterdir()
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(event.step, v.simple_value) for v in event.summary.value if v.tag == tag]
        at += 12 + length + 4
    return found


def run_arm(root: Path, specs: list[TrialSpec], halts: list[range], last: str | None) -> None:
    """A Tune trial whose seeds run in turn from halt to halt, and tell of every other epoch."""

    def trial(config: dict[str, Any]) -> None:
        for steps in halts:
            for spec in specs:
                for step in steps:
                    write(root, spec, range(step, step + 1))
                    if step % 2 == 0:
                        told = row(step, accuracy(spec.seed, step))
                        tune.report({"trial": spec.trial_id, "seed": spec.seed, **told})
        for spec in specs if last else ():
            tune.report({"trial": spec.trial_id, "status": last})

    tune.Tuner(
        trial,
        run_config=tune.RunConfig(
            storage_path=str(root / "ray"),
            verbose=0,
            callbacks=make_callbacks(["tensorboard"], root, "tiny_experiment"),
        ),
    ).fit()


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_tensorboard_has_one_curve_a_trial_with_each_epoch_once_after_a_resume(
    ray_cluster: Any, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    specs = arm_of_two(tiny_experiment)
    folder = tmp_path / "tensorboard"

    def check(epochs: int) -> None:
        assert {path.name for path in folder.iterdir()} == {spec.trial_id for spec in specs}
        for spec in specs:
            found = curves(folder / spec.trial_id, "ray/tune/val_acc")
            expected = [(step, accuracy(spec.seed, step)) for step in range(epochs)]
            assert [step for step, _ in found] == [step for step, _ in expected]
            assert [value for _, value in found] == pytest.approx([v for _, v in expected])

    run_arm(tmp_path, specs, [range(0, 2), range(2, 5)], last=None)
    check(5)
    # The checkpoint was one epoch behind the trace.
    run_arm(tmp_path, specs, [range(4, 8)], last="finished")
    check(8)


class Recorder:
    """A logger in the place of Ray's: keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def log_trial_start(self, trial: Any) -> None:
        self.events.append(("start", str(trial), trial.config["seed"], trial.config["schedule"]))

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        assert iteration == result["training_iteration"] == result["step_epoch"]
        self.events.append(("row", str(trial), iteration, result))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        self.events.append(("end", str(trial), failed))

    def kinds(self) -> list[tuple[Any, ...]]:
        return [event[:1] + event[1:3] for event in self.events]


def test_a_logger_is_shown_every_seed_as_a_trial(
    tiny_experiment: Experiment, tmp_path: Path
) -> None:
    first, second = arm_of_two(tiny_experiment)
    inner, arm = Recorder(), SimpleNamespace(trial_id="tune_1")
    logger = TrialLogger(inner, tmp_path, None)  # type: ignore[arg-type]

    def tell(spec: TrialSpec, **report: Any) -> None:
        logger.on_trial_result(0, [], arm, {"trial": spec.trial_id, "trial_id": "tune_1", **report})

    write(tmp_path, first, range(2))
    tell(first, **row(1, 0.5))
    write(tmp_path, second, range(1))
    tell(second, **row(0, 0.5))
    write(tmp_path, first, range(2, 3))
    tell(first, status="stopped")
    tell(first, status="stopped")
    tell(second, status="failed")
    a, b = first.trial_id, second.trial_id
    assert inner.kinds() == [
        ("start", a, 0),
        ("row", a, 0),
        ("row", a, 1),
        ("start", b, 1),
        ("row", b, 0),
        ("row", a, 2),
        ("end", a, False),
        ("end", b, True),
    ]
    assert inner.events[0][3] == first.config["schedule"]
    shown = inner.events[1][3]
    assert shown["val_acc"] == 0.5 and shown["searches"] == 1
    assert "phase" not in shown and "interval" not in shown, "words and gaps are no curve"


def test_a_logger_ends_the_trials_of_an_arm_whose_worker_was_lost(
    tiny_experiment: Experiment, tmp_path: Path
) -> None:
    specs = arm_of_two(tiny_experiment)
    inner = Recorder()
    logger = TrialLogger(inner, tmp_path, None)  # type: ignore[arg-type]
    arms = [SimpleNamespace(trial_id="tune_1"), SimpleNamespace(trial_id="tune_2")]
    for spec, arm in zip(specs, arms, strict=True):
        write(tmp_path, spec, range(1))
        logger.on_trial_result(0, [], arm, {"trial": spec.trial_id, **row(0, 0.5)})
    logger.on_trial_error(0, [], arms[0])
    logger.on_trial_complete(0, [], arms[1])
    assert inner.kinds()[-2:] == [
        ("end", specs[0].trial_id, True),
        ("end", specs[1].trial_id, False),
    ]


def test_a_trial_that_did_not_run_in_this_session_is_not_logged_again(
    tiny_experiment: Experiment, tmp_path: Path
) -> None:
    spec = arm_of_two(tiny_experiment)[0]
    write(tmp_path, spec, range(2))
    inner = Recorder()
    logger = TrialLogger(inner, tmp_path, None)  # type: ignore[arg-type]
    arm = SimpleNamespace(trial_id="tune_1")
    for report in ({"status": "finished"}, {"kept": True}):
        logger.on_trial_result(0, [], arm, {"trial": spec.trial_id, **report})
    assert inner.events == []


def test_without_a_name_there_is_no_logger(tmp_path: Path) -> None:
    assert make_callbacks([], tmp_path, "x") == []
    assert len(make_callbacks(["tensorboard", "tensorboard"], tmp_path, "x")) == 1


def test_an_unknown_logger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--log-to: got 'tensorbord' .*'tensorboard'"):
        make_callbacks(["tensorbord"], tmp_path, "x")


@pytest.mark.parametrize(
    ("name", "package"),
    [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")],
)
def test_a_missing_package_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"--log-to: got '{name}'.* pip install {package}"):
        make_callbacks([name], tmp_path, "x")


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_folder_named_like_a_package_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(ValueError, match="pip install wandb"):
        make_callbacks(["wandb"], tmp_path, "x")


def test_mlflow_has_a_run_a_trial(
    tiny_experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    specs = arm_of_two(tiny_experiment)
    (logger,) = make_callbacks(["mlflow"], tmp_path, "tiny_experiment")
    logger.setup()
    arm = SimpleNamespace(trial_id="tune_1")
    for spec in specs:
        write(tmp_path, spec, range(3))
        logger.on_trial_result(0, [], arm, {"trial": spec.trial_id, **row(2, 0.5)})
        logger.on_trial_result(0, [], arm, {"trial": spec.trial_id, "status": "finished"})
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny_experiment")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {spec.trial_id for spec in specs}
    for spec in specs:
        run = runs[spec.trial_id]
        assert run.info.status == "FINISHED"
        assert run.data.params["arm"] == "each" and run.data.params["seed"] == str(spec.seed)
        history = client.get_metric_history(run.info.run_id, "val_acc")
        assert sorted((m.step, m.value) for m in history) == [
            (step, accuracy(spec.seed, step)) for step in range(3)
        ]


def test_wandb_is_offline_unless_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (logger,) = make_callbacks(["wandb"], tmp_path, "tiny_experiment")
    inner = logger._inner
    assert (inner.project, inner.group) == ("adacomcat", "tiny_experiment")
    assert inner.kwargs["mode"] == "offline"
    inner.setup()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    (logger,) = make_callbacks(["wandb"], tmp_path, "tiny_experiment")
    assert logger._inner.kwargs["mode"] == "online"
