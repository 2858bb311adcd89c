import pytest

from study.execution.placement import Placement, Request, place

CPU2 = [{"CPU": 2.0, "memory": 1e9}]
GPUS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}]
# A head that computes nothing, a large node, a small one, and one without GPUs.
MIXED = [
    {"CPU": 0.0},
    {"CPU": 64.0, "GPU": 8.0},
    {"CPU": 8.0, "GPU": 4.0},
    {"CPU": 128.0},
]


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
        # A share lies on one GPU: two of 0.4 on each, though 2 / 0.4 would be five.
        (Request(gpus_per_worker=0.4), GPUS, Placement("tune", 1, 4.0, 0.4, 8)),
        (Request(gpus_per_worker=0.3), GPUS[:1], Placement("tune", 1, 2.0, 0.3, 6)),
        (Request(gpus_per_worker=0.6), GPUS, Placement("tune", 1, 8.0, 0.6, 4)),
        (Request(gpus_per_worker=0.1), GPUS[:1], Placement("tune", 1, 1.0, 0.1, 16)),
        (Request(gpus_per_worker=2), GPUS, Placement("tune", 1, 16.0, 2, 2)),
        # The small node decides how many CPUs a worker gets, or its GPUs would be idle.
        (Request(), MIXED, Placement("tune", 1, 2.0, 1.0, 12)),
        (Request(cpus_per_worker=8), MIXED, Placement("tune", 1, 8, 1.0, 9)),
        (Request(gpus_per_worker=0), MIXED, Placement("tune", 1, 1.0, 0, 200)),
        (Request(workers=8), MIXED, Placement("train", 8, 2.0, 1.0, 1)),
        (Request(), [{"CPU": 1.0, "GPU": 2.0}], Placement("tune", 1, 1.0, 1.0, 1)),
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
