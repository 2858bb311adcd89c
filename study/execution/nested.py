"""Trials of an arm as a Ray Train run, with several workers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adacomcat.checks import NonFiniteLoss
from adacomcat.files import atomic_write_bytes
from study.execution.trial import ArmRun, Job, TrialFailed, failure_text, ray_folder
from study.spec.schema import TrialSpec
from study.store import Results

RETRIES = 3
"""Restarts of a run, from its last epoch, after the loss of a worker or a node."""


def run_nested(specs: Sequence[TrialSpec], job: Job) -> None:
    """Run the trials of an arm as one Train run; its reports reach Tune through Ray's callback.

    Raises:
        TrialFailed: the body of a trial refused; the message is the worker's traceback.
        Exception: of Ray, when workers were lost more often than `RETRIES`.
    """
    import ray.train.torch
    from ray.tune.integration.ray_train import TuneReportCallback

    # Any: what type checkers see of ray.train is its first version, what runs is the second.
    train: Any = ray.train

    results = Results(Path(job.root))

    def worker(config: dict[str, Any]) -> None:
        _train_worker([results.spec(trial_id) for trial_id in config["trials"]], job)

    failure = _failure_file(specs, job)
    failure.unlink(missing_ok=True)
    placement = job.placement
    resources: dict[str, float] = {"CPU": placement.cpus}
    if placement.gpus:
        resources["GPU"] = placement.gpus
    trainer = train.torch.TorchTrainer(
        worker,
        train_loop_config={"trials": [spec.trial_id for spec in specs]},
        scaling_config=train.ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpus > 0,
            resources_per_worker=resources,
        ),
        run_config=train.RunConfig(
            name=specs[0].trial_id,
            storage_path=str(ray_folder(job.root) / "train"),
            callbacks=[TuneReportCallback()],
            # The controller's are failed starts of the workers, as on a machine that is busy.
            failure_config=train.FailureConfig(
                max_failures=RETRIES, controller_failure_limit=RETRIES
            ),
        ),
    )
    for attempt in range(RETRIES + 1):
        try:
            trainer.fit()
            return
        except train.ControllerError:
            # A worker that dies before it has begun is none of those that Train starts again.
            if attempt == RETRIES:
                raise
        except Exception as error:
            if failure.exists():
                raise TrialFailed(failure.read_text()) from error
            raise


def _train_worker(specs: Sequence[TrialSpec], job: Job) -> None:
    import ray.train.torch

    first = ray.train.get_context().get_world_rank() == 0
    device = str(ray.train.torch.get_device())
    failure = _failure_file(specs, job)
    if failure.exists():
        # Train starts again whatever the error was; this one would only come back.
        raise TrialFailed(failure.read_text())
    try:
        ArmRun(specs, job, device, ray.train.report, first=first).run()
    except Exception as error:
        if is_final(error) and not failure.exists():
            atomic_write_bytes(failure, failure_text(error).encode())
        raise


def is_final(error: Exception) -> bool:
    """Whether an error is the trial's own: a lost peer shows as RuntimeError or OSError."""
    return isinstance(error, NonFiniteLoss) or not isinstance(error, RuntimeError | OSError)


def _failure_file(specs: Sequence[TrialSpec], job: Job) -> Path:
    return Results(Path(job.root)).folder(specs[0].trial_id) / "failure.txt"
