"""Shared by all tests: Ray's settings, one cluster a session, and a cache of dense models."""

import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from study.execution import environment
from study.spec.schema import Arm, Experiment, Need, Workload

# Here, at import: Ray reads its settings when it is imported, whichever test comes first.
environment.set_environment(dashboard=False)
# By default Ray's workers stand back for every other process: on a busy machine, for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, or under `-n 2` one would be left for the end: Ray's, then slow ones.

    A failed test of Ray is run once more.
    """
    ray, slow = (
        {item.path for item in items if item.get_closest_marker(name)} for name in ("ray", "slow")
    )
    for item in items:
        if item.get_closest_marker("ray"):
            # They kill processes and wait for others: when, the machine decides. The summary names
            # those that were tried again.
            item.add_marker(pytest.mark.flaky(reruns=1))
    items.sort(key=lambda item: (item.path not in ray, item.path not in slow))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `-n 2`: one Ray at a time, and a file's fixtures made once."""
    from xdist.scheduler import LoadFileScheduling

    @cache
    def starts_ray(file: str) -> bool:
        return "pytest.mark.ray" in (config.rootpath / file).read_text()

    # Not by the mark `xdist_group`: the process that distributes has names of tests alone, to which
    # `--dist loadgroup` of xdist 3.8 adds no group under pytest 9.2.
    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if starts_ray(file) else file

    config.option.loadscopereorder = False
    return OneRay(config, log)


@pytest.fixture(scope="session", autouse=True)
def dense_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of dense models that the tests of a session share, in place of the user's."""
    folder = tmp_path_factory.mktemp("dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADACOMCAT_CACHE", str(folder))
        yield folder


@pytest.fixture
def disk_of() -> Callable[[int], AbstractContextManager[None]]:
    """Context manager in which no file can grow beyond so many bytes, as on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray of two CPUs."""
    import ray

    assert not os.environ.get("RAY_ADDRESS"), "tests start a Ray of their own"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def tiny_workload() -> Workload:
    """A real workload of the engine that a CPU trains in about a second."""
    return Workload(
        name="tiny",
        description="for tests",
        defaults={
            "data": {"name": "synthetic", "options": {"images": 240, "image_size": 8}},
            "model": {
                "options": {
                    "patch_size": 4,
                    "embed_dim": 16,
                    "depth": 1,
                    "num_heads": 2,
                    "global_pool": "avg",
                    "class_token": False,
                },
            },
            "dense": {"recipe": {"epochs": 1, "batch_size": 16}},
            "search": {"batch_size": 16},
            "search_phase": {"epochs": 3, "batch_size": 16},
            "search_phase.distill.align_blocks": [0],
            "finetune": {"epochs": 1, "batch_size": 16},
            "finetune.distill.align_blocks": [0],
        },
    )


@pytest.fixture
def tiny_experiment(tiny_workload: Workload) -> Experiment:
    """Three arms, one of which waits for the other two."""
    return Experiment(
        name="tiny_experiment",
        question="Does it run?",
        workload=tiny_workload,
        arms=(
            Arm(name="each", label="each", overrides={"schedule": {"kind": "fixed"}}),
            Arm(name="once", label="once", overrides={"schedule": {"kind": "once"}}),
            Arm(
                name="best",
                label="best",
                overrides={"schedule": {"kind": "resolved"}},
                needs=(Need(arm="each", role="plans"), Need(arm="once", role="count")),
                resolver="oracle_schedule",
            ),
        ),
        seeds=(0,),
    )
