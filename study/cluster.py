"""Ray's settings, its start, and where the workers of a trial fit.

This module imports Ray inside its functions only: the settings must be in the environment before.
"""

import logging
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adacomcat.checks import require
from study.provenance import repository

Executor = Literal["tune", "train"]


@dataclass(frozen=True)
class Request:
    """What a user asks for; None and `auto` leave the choice to `place`."""

    executor: Literal["auto", "tune", "train"] = "auto"
    workers: int = 1
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        require(self.workers >= 1, "--workers", self.workers, "1 or more")
        one = self.executor != "tune" or self.workers == 1
        require(one, "--executor", self.executor, "auto or train, with two or more --workers")
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        require(cpus is None or cpus > 0, "--cpus-per-worker", cpus, "above 0")
        if gpus is not None:
            whole = gpus == int(gpus)
            require(gpus >= 0, "--gpus-per-worker", gpus, "0 or more")
            require(gpus < 1 or whole, "--gpus-per-worker", gpus, "a share below 1, or whole GPUs")
            # NCCL refuses two ranks of one group on the same device.
            require(self.workers == 1 or whole, "--gpus-per-worker", gpus, "whole, with --workers")


@dataclass(frozen=True)
class Placement:
    """How every trial of a study is run.

    Attributes:
        executor: `tune`, a plain Tune function; `train`, a Ray Train run nested in one.
        workers: of one trial.
        cpus: of one worker.
        gpus: of one worker.
        concurrent: trials that run at once.
    """

    executor: Executor
    workers: int
    cpus: float
    gpus: float
    concurrent: int

    @property
    def threads(self) -> int:
        """Torch threads of one worker."""
        return max(1, int(self.cpus))

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def place(request: Request, nodes: Iterable[Mapping[str, float]]) -> Placement:
    """Fit trials into a cluster.

    A worker gets a GPU where there are any, and one CPU, or an equal share of them per GPU.

    Args:
        request: what is asked for.
        nodes: resources of each node, by Ray's names (`CPU`, `GPU`).

    Raises:
        ValueError: not even one trial can be placed; names what was asked and what there is.
    """
    sizes = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    cpus, gpus = sum(c for c, _ in sizes), sum(g for _, g in sizes)
    each_gpu = request.gpus_per_worker
    if each_gpu is None:
        each_gpu = 1.0 if gpus else 0.0
    each_cpu = request.cpus_per_worker
    if each_cpu is None:
        each_cpu = float(max(1, int(cpus * min(each_gpu, 1.0) / gpus))) if gpus else 1.0
    slots = sum(min(_fit(c, each_cpu), _fit(g, each_gpu)) for c, g in sizes)
    asked = f"{request.workers} workers of {each_cpu:g} CPUs and {each_gpu:g} GPUs for one trial"
    require(
        slots >= request.workers, "--workers, --cpus-per-worker, --gpus-per-worker", asked,
        f"what fits into {cpus:g} CPUs and {gpus:g} GPUs on {len(sizes)} nodes: "
        f"{min(slots, 10**6)} such workers",
    )  # fmt: skip
    executor: Executor = "train" if request.workers > 1 else "tune"
    if request.executor != "auto":
        executor = request.executor
    return Placement(executor, request.workers, each_cpu, each_gpu, slots // request.workers)


def _fit(have: float, each: float) -> int:
    # 1 / 0.1 workers must be 10 though 10 * 0.1 is not exactly 1.
    return int(have / each + 1e-9) if each else sys.maxsize


def set_environment(*, dashboard: bool) -> int | None:
    """Set what Ray reads from the environment; before `import ray`, since workers inherit it.

    What the user has set stays.

    Returns:
        The port of the dashboard; None without one, or where another cluster is joined.
    """
    settings = {
        # The default of 2 s makes every report of a Train run cost as much.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
        "TUNE_GLOBAL_CHECKPOINT_S": "2",
        # Tune's handler makes an interrupted run look like a finished one.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # The trace is ours; Tune's own loggers would write a second one.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_SCHEDULER_EVENTS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    port = None
    if dashboard and not os.environ.get("RAY_ADDRESS"):
        port = _free_port()
        settings["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"
        # Without it a nested run whose trial is killed asks any other Ray on this machine.
        settings["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Workers import these packages too, from wherever the command was started.
    paths = [str(repository()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start(*, dashboard: bool = False) -> str | None:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS, or use what is running here.

    Returns:
        The address of the dashboard; None without one.
    """
    port = set_environment(dashboard=dashboard)
    import ray

    if ray.is_initialized():
        return None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    else:
        options["include_dashboard"] = dashboard
        if port is not None:
            options["dashboard_port"] = port
    context = ray.init(**options)
    address = context.dashboard_url
    return f"http://{address}" if address else None


def node_resources() -> list[dict[str, float]]:
    """The resources of each living node of the cluster."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def stop() -> None:
    """End Ray, if it runs; on a cluster of our own this ends all workers."""
    import ray

    ray.shutdown()
