"""Trials of an arm as a Ray Train run, with several workers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from study.execution.causes import is_memory_short
from study.execution.trial import ArmRun, Job, is_final, ray_folder
from study.spec.schema import TrialSpec
from study.store import Results

RETRIES = 3
"""Restarts of a run, from its last epoch, after the loss of a worker or a node."""


def run_nested(specs: Sequence[TrialSpec], job: Job) -> None:
    """Run the trials of an arm as one Train run; its reports reach Tune through Ray's callback.

    A run that loses a worker, its controller or a node is started again here, not by Train, which
    would start again whatever the error was.

    Raises:
        Exception: of Ray: the body of a trial refused, memory was short, or something was lost more
            often than `RETRIES`.
    """
    import ray.train.torch
    from ray.tune.integration.ray_train import TuneReportCallback

    # Any: what type checkers see of ray.train is its first version, what runs is the second.
    train: Any = ray.train

    results = Results(Path(job.root))

    def worker(config: dict[str, Any]) -> None:
        _train_worker([results.spec(trial_id) for trial_id in config["trials"]], job)

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
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    for attempt in range(RETRIES + 1):
        free_orphans()
        try:
            trainer.fit()
            return
        except Exception as error:
            workers = getattr(error, "worker_failures", {}).values()
            if attempt == RETRIES or is_memory_short(error) or any(map(is_final, workers)):
                raise


def free_orphans() -> None:
    """Free the resources of killed controllers of this study's Train runs.

    Ray frees the placement group of an actor that has died at the end of the job. Train has a
    process that does it at once, but which needs the dashboard.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    # Any: it is made when imported. The public table does not say whose a group is.
    group_type = cast(Any, gcs_pb2).PlacementGroupTableData
    job = ray.get_runtime_context().get_job_id()
    for row in state._connect_and_get_accessor().get_placement_group_table():
        group = group_type.FromString(row)
        held = group.state != group_type.REMOVED and group.creator_job_id.hex() == job
        # Those of the driver, as of Tune, have no creator among the actors.
        of_actor = not ray.ActorID(group.creator_actor_id).is_nil()
        if held and of_actor and group.creator_actor_dead and not group.is_detached:
            identity = ray.PlacementGroupID(group.placement_group_id)
            remove_placement_group(PlacementGroup(identity))


def _train_worker(specs: Sequence[TrialSpec], job: Job) -> None:
    import ray.train.torch

    first = ray.train.get_context().get_world_rank() == 0
    device = str(ray.train.torch.get_device())
    ArmRun(specs, job, device, ray.train.report, first=first).run()
