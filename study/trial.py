"""One trial in a worker, under Ray Tune or Ray Train, and what is recorded of it."""

import json
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from adacomcat.config import (
    DataConfig,
    DenseConfig,
    ModelConfig,
    TrialConfig,
    from_mapping,
)
from adacomcat.data import Splits, build_splits
from adacomcat.interop.timm import create_model
from adacomcat.schedule import Never
from adacomcat.training import Reporter, Trial, dense_model, run_trial
from study.cluster import Placement
from study.expand import RESOLVED
from study.provenance import collect
from study.schema import TrialSpec
from study.store import Results, TraceWriter, now

Report = Callable[[dict[str, Any]], None]
"""Takes flat metrics on their way to Ray."""


@dataclass(frozen=True)
class Outcome:
    """What the body of a trial leaves beside its trace."""

    summary: dict[str, Any]
    split_hashes: Mapping[str, str] = field(default_factory=dict)


class Body(Protocol):
    """What a trial does; called on every worker of it."""

    def __call__(
        self, config: TrialConfig, *, directory: Path, reporter: Reporter, cache: Path, device: str
    ) -> Outcome: ...


def default_cache() -> Path:
    """The folder of dense models: ADACOMCAT_CACHE, or `.cache/adacomcat` in the home folder."""
    folder = os.environ.get("ADACOMCAT_CACHE")
    return Path(folder).absolute() if folder else Path.home() / ".cache" / "adacomcat"


def train_trial(
    config: TrialConfig, *, directory: Path, reporter: Reporter, cache: Path, device: str
) -> Outcome:
    """The body of every study: the engine, on the workload's cached dense model."""
    dense, splits = _prepared(_workload_key(config), cache, device)
    summary = run_trial(
        config, dense=dense, splits=splits, directory=directory, reporter=reporter, device=device
    )
    return Outcome(summary, dict(splits.hashes))


def prepare_dense(config: TrialConfig, cache: Path, device: str, progress: Report | None) -> None:
    """Train the dense model of a workload in this process, unless the cache has it."""
    # The GPUs may be those of other machines of the cluster.
    here = device if torch.cuda.is_available() else "cpu"
    dense_model(config, build_splits(config.data), cache, device=here, progress=progress)
    # The trials get the GPU that this process has used.
    torch.cuda.empty_cache()


def check_buildable(configs: list[TrialConfig]) -> None:
    """Build every trial on an untrained model, so that a bad setting is refused before any starts.

    Raises:
        ValueError: a setting that the data, the model, the method or the budget does not allow.
    """
    for config in configs:
        dense, splits = _untrained(_workload_key(config))
        values = config.to_json()
        if config.schedule.get("kind") == RESOLVED:
            values["schedule"] = Never().config()
        Trial(
            from_mapping(TrialConfig, values),
            dense=dense, splits=splits, directory=Path(), reporter=_Silent(),
        )  # fmt: skip


class _Silent:
    def epoch(self, row: dict[str, Any]) -> None: ...

    def search(self, row: dict[str, Any]) -> None: ...


def _workload_key(config: TrialConfig) -> str:
    values = config.to_json()
    return json.dumps({name: values[name] for name in ("data", "model", "dense")})


def _workload(key: str) -> TrialConfig:
    values = json.loads(key)
    return TrialConfig(
        data=from_mapping(DataConfig, values["data"], "data"),
        model=from_mapping(ModelConfig, values["model"], "model"),
        dense=from_mapping(DenseConfig, values["dense"], "dense"),
    )


# A worker runs many trials of one workload, one after the other: one entry is all it needs.
@lru_cache(maxsize=1)
def _prepared(key: str, cache: Path, device: str) -> tuple[nn.Module, Splits]:
    config = _workload(key)
    splits = build_splits(config.data)
    return dense_model(config, splits, cache, device=device), splits


@lru_cache(maxsize=1)
def _untrained(key: str) -> tuple[nn.Module, Splits]:
    config = _workload(key)
    splits = build_splits(config.data)
    model = create_model(
        config.model,
        num_classes=splits.num_classes,
        in_chans=splits.in_chans,
        image_size=splits.image_size,
    )
    return model, splits


@dataclass(frozen=True)
class Job:
    """What all trials of a study share, sent to every worker."""

    root: str
    """The results directory."""
    cache: str
    placement: Placement
    git: dict[str, Any]
    body: Body = train_trial


class _TraceReporter:
    """Writes the rows of a trial on its first worker, and passes each epoch on to Ray."""

    def __init__(self, writer: TraceWriter | None, report: Report) -> None:
        self._writer, self._report = writer, report

    def epoch(self, row: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.epoch(row)
        # Ray Train waits at a report until every worker has called it.
        self._report(row)

    def search(self, row: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.search(row)


def run_spec(spec: TrialSpec, job: Job, report: Report) -> None:
    """Run a trial and record how it ended; a failure is recorded, not raised.

    The study goes on when a trial fails, and its worker takes the next one.

    Args:
        spec: the trial, resolved.
        job: what all trials share.
        report: takes a row an epoch and, last, `{"status": ...}`.
    """
    results = Results(Path(job.root))
    provenance = collect(job.git) | {"execution": asdict(job.placement)}
    results.update(
        spec.trial_id, "running", config=spec.config, provenance=provenance,
        started=now(), finished=None, error=None, summary=None,
    )  # fmt: skip
    execute = _run_nested if job.placement.executor == "train" else _run_here
    try:
        outcome = execute(spec, job, report)
    except Exception as error:
        results.update(spec.trial_id, "failed", finished=now(), error=failure_text(error))
        report({"status": "failed"})
        return
    provenance["split_hashes"] = dict(outcome.split_hashes)
    results.update(
        spec.trial_id, "finished",
        finished=now(), summary=outcome.summary, provenance=provenance,
    )  # fmt: skip
    report({"status": "finished"})


def failure_text(error: BaseException) -> str:
    """A line that says what failed, then the traceback; of a Train run, those of its workers."""
    workers: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    if not workers:
        return f"{_headline(error)}\n\n{''.join(traceback.format_exception(error))}"
    heads = (f"{_headline(workers[rank])} (worker {rank})" for rank in sorted(workers))
    return "\n".join([*heads, "", str(error)])


def _headline(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _run_here(spec: TrialSpec, job: Job, report: Report) -> Outcome:
    return _run_body(spec, job, job.placement.device, report, first=True)


def _run_body(spec: TrialSpec, job: Job, device: str, report: Report, *, first: bool) -> Outcome:
    """The body on one worker, with the threads that it was given."""
    # Ray gives a worker one thread, whatever its CPUs; and the setting is of this thread alone.
    torch.set_num_threads(job.placement.threads)
    folder = Results(Path(job.root)).folder(spec.trial_id)
    writer = TraceWriter(folder) if first else None
    try:
        return job.body(
            spec.trial_config(),
            directory=folder,
            reporter=_TraceReporter(writer, report),
            cache=Path(job.cache),
            device=device,
        )
    finally:
        if writer is not None:
            writer.close()


def _run_nested(spec: TrialSpec, job: Job, report: Report) -> Outcome:
    """The trial as a Ray Train run; its reports reach Tune through Ray's own callback."""
    import ray.train.torch
    from ray.tune.integration.ray_train import TuneReportCallback

    # Any: what type checkers see of ray.train is its first version, what runs is the second.
    train: Any = ray.train

    def worker(config: dict[str, Any]) -> dict[str, Any]:
        return _train_worker(TrialSpec.model_validate(config["spec"]), job)

    placement = job.placement
    resources: dict[str, float] = {"CPU": placement.cpus}
    if placement.gpus:
        resources["GPU"] = placement.gpus
    result = train.torch.TorchTrainer(
        worker,
        train_loop_config={"spec": spec.model_dump()},
        scaling_config=train.ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpus > 0,
            resources_per_worker=resources,
        ),
        run_config=train.RunConfig(
            # Train goes on by equal name and path, so the name is the trial's own.
            name=spec.trial_id,
            storage_path=str(ray_folder(job.root) / "train"),
            callbacks=[TuneReportCallback()],
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    ).fit()
    returned: dict[str, Any] | None = result.return_value
    assert returned is not None, "the first worker returned nothing"
    return Outcome(**returned)


def _train_worker(spec: TrialSpec, job: Job) -> dict[str, Any]:
    import ray.train.torch

    first = ray.train.get_context().get_world_rank() == 0
    device = str(ray.train.torch.get_device())
    return asdict(_run_body(spec, job, device, ray.train.report, first=first))


def ray_folder(root: str | Path) -> Path:
    """Where Ray keeps its own files of a study; nothing of the record is in there."""
    return Path(root) / "ray"
