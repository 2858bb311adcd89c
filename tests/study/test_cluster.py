import os
from pathlib import Path

import pytest

from study.cluster import Placement, Request, place, set_environment

CPU2 = [{"CPU": 2.0, "memory": 1e9}]
GPUS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("request_", "nodes", "expected"),
    [
        (Request(), CPU2, Placement("tune", 1, 1.0, 0.0, 2)),
        (Request(workers=2), CPU2, Placement("train", 2, 1.0, 0.0, 1)),
        (Request(executor="train"), CPU2, Placement("train", 1, 1.0, 0.0, 2)),
        (Request(cpus_per_worker=0.5), CPU2, Placement("tune", 1, 0.5, 0.0, 4)),
        (Request(cpus_per_worker=2), CPU2, Placement("tune", 1, 2, 0.0, 1)),
        # A GPU each, with its share of the CPUs.
        (Request(), GPUS, Placement("tune", 1, 8.0, 1.0, 4)),
        (Request(workers=4), GPUS, Placement("train", 4, 8.0, 1.0, 1)),
        (Request(gpus_per_worker=0.5), GPUS, Placement("tune", 1, 4.0, 0.5, 8)),
        (Request(gpus_per_worker=0), GPUS, Placement("tune", 1, 1.0, 0, 32)),
        # Ten tenths of a CPU are a CPU, whatever floating point says.
        (Request(cpus_per_worker=0.1), [{"CPU": 1.0}], Placement("tune", 1, 0.1, 0.0, 10)),
        # A worker does not spread over nodes.
        (Request(cpus_per_worker=2), [{"CPU": 3.0}, {"CPU": 3.0}], Placement("tune", 1, 2, 0.0, 2)),
    ],
)
def test_place(request_: Request, nodes: list[dict[str, float]], expected: Placement) -> None:
    assert place(request_, nodes) == expected


@pytest.mark.parametrize(
    ("request_", "nodes", "asked", "there"),
    [
        (Request(workers=4), CPU2, "4 workers of 1 CPUs", "2 CPUs and 0 GPUs on 1 nodes: 2 such"),
        (Request(cpus_per_worker=3), CPU2, "1 workers of 3 CPUs", "0 such workers"),
        (Request(gpus_per_worker=1), CPU2, "1 workers of 1 CPUs and 1 GPUs", "0 such workers"),
        (Request(gpus_per_worker=4), GPUS, "4 GPUs", "32 CPUs and 4 GPUs on 2 nodes: 0 such"),
        (Request(), [], "1 workers", "0 CPUs and 0 GPUs on 0 nodes: 0 such"),
    ],
)
def test_what_cannot_be_placed_names_what_was_asked_and_what_is_there(
    request_: Request, nodes: list[dict[str, float]], asked: str, there: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        place(request_, nodes)
    assert asked in str(refusal.value)
    assert there in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "--workers: got 0"),
        ({"workers": 2, "executor": "tune"}, "--executor: got 'tune', allowed: auto or train"),
        ({"cpus_per_worker": 0}, "--cpus-per-worker: got 0"),
        ({"gpus_per_worker": -1}, "--gpus-per-worker: got -1"),
        ({"gpus_per_worker": 1.5}, "--gpus-per-worker: got 1.5"),
        ({"gpus_per_worker": 0.5, "workers": 2}, "--gpus-per-worker: got 0.5, allowed: whole"),
    ],
)
def test_a_senseless_request_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request(**arguments)  # type: ignore[arg-type]


def test_threads_follow_the_cpus_and_the_device_the_gpus() -> None:
    assert [Placement("tune", 1, c, 0, 1).threads for c in (0.5, 1, 2.5, 8)] == [1, 1, 2, 8]
    assert Placement("tune", 1, 1, 0, 1).device == "cpu"
    assert Placement("tune", 1, 1, 0.5, 1).device == "cuda"


def test_the_environment_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "77")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_TRAIN_ENABLE_STATE_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    assert set_environment(dashboard=False) is None
    assert "RAY_API_SERVER_ADDRESS" not in os.environ
    port = set_environment(dashboard=True)
    set_environment(dashboard=False)  # A second call adds nothing to the path.
    assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "77"
    assert os.environ["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{port}"
    root, *others = os.environ["PYTHONPATH"].split(os.pathsep)
    assert (Path(root) / "study" / "cluster.py").is_file()
    assert others == ["/somewhere"]
