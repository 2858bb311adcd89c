"""Placement of trials: resources of each, and how many run at once."""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from adacomcat.checks import require

Executor = Literal["tune", "train"]


@dataclass(frozen=True)
class Request:
    """Requested resources; None and `auto` leave the choice to `place`."""

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
    """Resources of every trial of a study.

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

    A worker gets a GPU where there are any, and one CPU, or per GPU as many as the node with the
    fewest can give each of its own. A share of a GPU lies on one GPU: of shares of 0.4 two fit on
    each.

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
        each_cpu = _cpu_share(sizes, each_gpu)
    slots = sum(min(_fit(c, each_cpu), _fit_gpus(g, each_gpu)) for c, g in sizes)
    asked = f"{request.workers} workers of {each_cpu:g} CPUs and {each_gpu:g} GPUs for one trial"
    require(
        slots >= request.workers,
        "--workers, --cpus-per-worker, --gpus-per-worker",
        asked,
        f"what fits into {cpus:g} CPUs and {gpus:g} GPUs on {len(sizes)} nodes: "
        f"{min(slots, 10**6)} such workers",
    )
    executor: Executor = "train" if request.workers > 1 else "tune"
    if request.executor != "auto":
        executor = request.executor
    return Placement(executor, request.workers, each_cpu, each_gpu, slots // request.workers)


def _cpu_share(sizes: Iterable[tuple[float, float]], each_gpu: float) -> float:
    """The CPUs of a worker: so many that those of a node never leave one of its GPUs idle."""
    per_gpu = [cpus / gpus for cpus, gpus in sizes if gpus]
    if not per_gpu or not each_gpu:
        return 1.0
    share = 1 / _fit(1.0, each_gpu) if each_gpu < 1 else each_gpu
    return float(max(1, math.floor(min(per_gpu) * share + 1e-9)))


def _fit_gpus(have: float, each: float) -> int:
    # Ray puts a share on one GPU, and several whole ones are no shares.
    return int(have) * _fit(1.0, each) if 0 < each < 1 else _fit(have, each)


def _fit(have: float, each: float) -> int:
    # 1 / 0.1 workers must be 10 though 10 * 0.1 is not exactly 1.
    return int(have / each + 1e-9) if each else sys.maxsize
