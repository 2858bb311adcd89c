"""A study as Ray Tune runs: waves of trials, each wave after the trials that it needs."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from study.expand import as_json
from study.monitor import Monitor
from study.overrides import build_config
from study.resolve import Trace, resolve
from study.schema import TrialSpec, levels
from study.store import Results, now
from study.trial import Job, failure_text, ray_folder, run_spec


def run_study(specs: Sequence[TrialSpec], job: Job, monitor: Monitor) -> list[str]:
    """Run what is not finished, each trial after those it needs.

    Args:
        specs: all trials of the study; their records are in the results directory.
        job: what they share.
        monitor: told what happens.

    Returns:
        Ids of the trials that did not finish.

    Raises:
        KeyboardInterrupt: after what was running has been marked `interrupted`.
    """
    results = Results(Path(job.root))
    by_id = {spec.trial_id: spec for spec in specs}
    # Tune's files of an earlier run are of no use, and a new run would mix with them.
    shutil.rmtree(_tune_folder(job.root), ignore_errors=True)
    waves = levels({s.trial_id: set(s.needs.values()) for s in specs}, "trials")
    try:
        for number, wave in enumerate(waves):
            ready = _ready([by_id[trial_id] for trial_id in wave], results, monitor)
            if ready:
                _run_wave(f"wave-{number}", ready, job, monitor)
    except KeyboardInterrupt:
        # First the workers, then the records: a worker must not write after us.
        ray.shutdown()
        for spec in specs:
            if results.status(spec.trial_id) == "running":
                results.update(spec.trial_id, "interrupted", finished=now())
                monitor.ended(spec.trial_id, "interrupted", None)
        raise
    unfinished = [s.trial_id for s in specs if results.status(s.trial_id) != "finished"]
    if not unfinished:
        shutil.rmtree(ray_folder(job.root), ignore_errors=True)
    return unfinished


def _ready(specs: Sequence[TrialSpec], results: Results, monitor: Monitor) -> list[TrialSpec]:
    """Those not finished, resolved; one whose needs are missing is marked failed."""
    ready = []
    for spec in specs:
        if results.status(spec.trial_id) == "finished":
            continue
        try:
            ready.append(resolve_spec(spec, results))
        except ValueError as error:
            results.update(spec.trial_id, "failed", finished=now(), error=failure_text(error))
            monitor.ended(spec.trial_id, "failed", results.trial(spec.trial_id))
    return ready


def resolve_spec(spec: TrialSpec, results: Results) -> TrialSpec:
    """Fill in the settings that follow from the traces of the trials it needs.

    Raises:
        ValueError: a needed trial is not finished, or its trace does not serve.
    """
    if spec.resolver is None:
        return spec
    traces = {}
    for role, trial_id in spec.needs.items():
        record = results.trial(trial_id)
        if record is None or record["status"] != "finished":
            state = record["status"] if record else "pending"
            raise ValueError(f"{spec.arm} needs the trial {trial_id}, which is {state}")
        traces[role] = Trace(record["config"], record["summary"], results.searches(trial_id))
    config = build_config(spec.config, resolve(spec.resolver, spec.config, traces))
    return spec.model_copy(update={"config": as_json(config)})


def _run_wave(name: str, specs: Sequence[TrialSpec], job: Job, monitor: Monitor) -> None:
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    placement = job.placement
    nested = placement.executor == "train"
    # The driver of a nested run takes no CPU, or its workers could wait for it for ever.
    resources = {"node:__internal_head__": 0.001}
    if not nested:
        resources = {"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})

    def trial(config: dict[str, Any]) -> None:
        run_spec(TrialSpec.model_validate(config["spec"]), job, tune.report)

    outcome = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space={"spec": tune.grid_search([spec.model_dump() for spec in specs])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=placement.concurrent,
            # Saves starting and importing. It would not do for nested runs that Tune kills (their
            # workers live on), but ours end by themselves.
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(_tune_folder(job.root)),
            verbose=0,
            callbacks=[_Events(job.root, monitor)],
        ),
    ).fit()
    _mark_lost(specs, outcome, job.root, monitor)


def _tune_folder(root: str) -> Path:
    return ray_folder(root) / "tune"


def _trial_name(trial: Any) -> str:
    name: str = trial.config["spec"]["trial_id"]
    return name


class _Events(tune.Callback):
    """Passes what Tune hears on to the monitor."""

    def __init__(self, root: str, monitor: Monitor) -> None:
        self._results, self._monitor = Results(Path(root)), monitor

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into a file that nobody reads; a live table has no pickle.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._monitor.started(_trial_name(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        trial_id = _trial_name(trial)
        if "status" in result:
            self._monitor.ended(trial_id, result["status"], self._results.trial(trial_id))
        else:
            self._monitor.epoch(trial_id, result)


def _mark_lost(
    specs: Sequence[TrialSpec], outcome: tune.ResultGrid, root: str, monitor: Monitor
) -> None:
    """A worker that died could not record its end."""
    results = Results(Path(root))
    errors = {}
    for result in map(outcome.__getitem__, range(len(outcome))):
        if result.error is not None and result.config is not None:
            errors[result.config["spec"]["trial_id"]] = failure_text(result.error)
    for spec in specs:
        if results.status(spec.trial_id) not in ("finished", "failed"):
            text = errors.get(spec.trial_id, "the trial ended without a word")
            results.update(spec.trial_id, "failed", finished=now(), error=text)
            monitor.ended(spec.trial_id, "failed", results.trial(spec.trial_id))
