"""Studies on Ray Tune: a grid in waves, or an exploration led by Optuna."""

import errno
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.trainable import Trainable, wrap_function

from adacomcat.io.run import FINAL, now
from adacomcat.overrides import build_config
from study.execution.causes import MemoryShort, is_memory_short
from study.execution.disk import is_disk_full
from study.execution.nested import RETRIES
from study.execution.placement import Placement
from study.execution.supervisor import Halt, Supervisor
from study.execution.trial import (
    Job,
    Pruning,
    failure_text,
    ray_folder,
    record_failure,
    run_arm,
)
from study.execution.watch import Watch
from study.explore.optuna_study import fail_arm
from study.explore.pruner import Decision, Pruner
from study.explore.searcher import OptunaSearcher
from study.show.progress import StudyProgress
from study.spec.expand import as_json, expand
from study.spec.exploration import Exploration
from study.spec.resolve import Trace, resolve
from study.spec.schema import Experiment, TrialSpec, levels
from study.store import Results


def run_study(
    experiment: Experiment,
    job: Job,
    progress: StudyProgress,
    loggers: Sequence[tune.Callback] = (),
    *,
    restart: Callable[[], Placement] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run the unfinished trials.

    Args:
        experiment: the study's; its results directory has been begun.
        job: what its trials share.
        progress: told what happens.
        loggers: Ray's own, which hear every report.
        restart: starts Ray again where it is lost; None where this process found one running.
        say: takes a line on what was lost.

    Raises:
        KeyboardInterrupt: after what was running has been marked `interrupted`, as before each of
            the following.
        DiskFull: nothing more can be recorded.
        GivenUp: memory or Ray was lost too often.
    """
    study = _Study(experiment, job, progress, loggers)
    Supervisor(study, job.root, job.placement, restart, say).run()
    if all(record["status"] in FINAL for record in study.results.trials()):
        shutil.rmtree(ray_folder(job.root), ignore_errors=True)


class _Study:
    """Shared data of the parts of a run."""

    def __init__(
        self,
        experiment: Experiment,
        job: Job,
        progress: StudyProgress,
        loggers: Sequence[tune.Callback],
    ) -> None:
        self.experiment, self.job, self.progress = experiment, job, progress
        self.loggers = loggers
        self.results = Results(Path(job.root))
        self._errors: dict[str, str] = {}
        self._running: list[str] = []
        self._failed: set[str] = set()
        """Trials that failed in this session; another session tries them again."""

    def run(self, placement: Placement, watch: Watch) -> None:
        """Run all that is left."""
        # Tune's files of an earlier run are of no use, and a new run would mix with them.
        shutil.rmtree(_tune_folder(self.job.root), ignore_errors=True)
        self.job, self._watch = replace(self.job, placement=placement), watch
        self._running.clear()
        if self.experiment.exploration is None:
            self.run_grid()
        else:
            self.explore()

    def rows(self) -> int:
        """Number of recorded epochs."""
        return sum(len(self.results.epochs(r["trial_id"])) for r in self.results.trials())

    def running(self) -> Sequence[str]:
        """The trials that had started and not ended when the last run ended."""
        return tuple(self._running)

    def fail(self, trial_ids: Sequence[str], error: Exception) -> None:
        """Record trials as failed, and run them no more in this session."""
        specs = [self.results.spec(trial_id) for trial_id in trial_ids]
        record_failure(specs, self.results, error, self.ended)
        if self.experiment.exploration is not None:
            for arm in dict.fromkeys(spec.arm for spec in specs):
                fail_arm(self.experiment, self.results, arm, failure_text(error))

    def run_grid(self) -> None:
        """Every trial of the experiment, each after those that it needs."""
        specs = expand(self.experiment)
        by_id = {spec.trial_id: spec for spec in specs}
        waves = levels({s.trial_id: set(s.needs.values()) for s in specs}, "trials")
        for number, wave in enumerate(waves):
            ready = self._ready([by_id[trial_id] for trial_id in wave])
            if ready:
                points = [[spec.trial_id] for spec in ready]
                self._fit(
                    f"wave-{number}",
                    self.job,
                    {"trials": tune.grid_search(points)},
                    tune.TuneConfig(),
                )
                self._mark_lost([spec.trial_id for spec in ready])

    def explore(self) -> None:
        """Run the references, then Optuna's suggestions, with pruning."""
        exploration = self.experiment.exploration
        assert exploration is not None
        searcher = OptunaSearcher(self.experiment, self.results)
        if searcher.left:
            config = tune.TuneConfig(search_alg=searcher, num_samples=searcher.left)
            self._fit("explore", self._with_pruner(exploration), {}, config)
        lost = [r["trial_id"] for r in self.results.trials() if r["status"] not in FINAL]
        self._mark_lost(lost)

    def _with_pruner(self, exploration: Exploration) -> Job:
        """The job with the pruner, if the exploration stops arms early."""
        if exploration.stopping is None:
            return self.job
        references = [arm.name for arm in self.experiment.arms]
        # Its file of decisions is its state: one that is killed goes on as it was.
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Pruner)
        pruner = actor.remote(
            exploration.stopping, exploration.objectives, references, self.results.rungs_file
        )
        pruning = Pruning(_Decide(pruner), exploration.objectives, exploration.stopping.rungs)
        return replace(self.job, pruning=pruning)

    def _ready(self, specs: Sequence[TrialSpec]) -> list[TrialSpec]:
        """Unfinished trials, resolved; one whose needs are missing is marked failed."""
        ready = []
        for spec in specs:
            if self.results.status(spec.trial_id) in FINAL or spec.trial_id in self._failed:
                continue
            try:
                resolved = resolve_spec(spec, self.results)
                if resolved != spec:
                    self.results.update(spec.trial_id, "pending", config=resolved.config)
                ready.append(resolved)
            except ValueError as error:
                self.progress.started(spec)
                record_failure([spec], self.results, error, self.ended)
        return ready

    def _fit(self, name: str, job: Job, space: dict[str, Any], config: tune.TuneConfig) -> None:
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        placement = job.placement
        # The driver of a nested run takes no CPU, or its workers could wait for it for ever.
        resources = {"node:__internal_head__": 0.001}
        if placement.executor == "tune":
            gpu = {"GPU": placement.gpus} if placement.gpus else {}
            resources = {"CPU": placement.cpus} | gpu

        events = _Events(self, self._watch)
        outcome = tune.Tuner(
            _trainable(job, resources),
            param_space=space,
            tune_config=replace(
                config,
                max_concurrent_trials=placement.concurrent,
                # Saves starting and importing. It would not do for nested runs that Tune kills
                # (their workers live on), but ours end by themselves.
                reuse_actors=not job.named,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(_tune_folder(job.root, logs=bool(self.loggers))),
                verbose=0,
                # A trial that fails records it and returns: what Tune sees fail lost its worker.
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[events, *self.loggers],
            ),
        ).fit()
        ended = [outcome[number] for number in range(len(outcome))]
        for result in ended:
            # A worker that could not even say so has raised it.
            if is_disk_full(result.error) or is_memory_short(result.error):
                assert result.error is not None
                raise result.error
        self._errors = {
            trial_id: failure_text(result.error)
            for result in ended
            if result.error is not None and result.config is not None
            for trial_id in result.config["trials"]
        }

    def _mark_lost(self, trial_ids: Sequence[str]) -> None:
        """A worker that died for good could not record its end."""
        for trial_id in trial_ids:
            if self.results.status(trial_id) in (*FINAL, "failed"):
                continue
            text = self._errors.get(trial_id, "the trial ended without a word")
            self.results.update(trial_id, "failed", finished=now(), error=text)
            self.ended({"trial": trial_id, "status": "failed"})

    def started(self, trial_ids: Sequence[str]) -> None:
        """Note that Tune has started an arm."""
        for trial_id in trial_ids:
            if self.results.status(trial_id) not in FINAL:
                self.progress.started(self.results.spec(trial_id))
                self._running.append(trial_id)

    def ended(self, report: Mapping[str, Any]) -> None:
        """Report the end of a trial, according to its record."""
        trial_id, status = report["trial"], report["status"]
        if status == "failed":
            self._failed.add(trial_id)
        if trial_id in self._running:
            self._running.remove(trial_id)
        self.progress.ended(trial_id, status, self.results.trial(trial_id))

    def mark_interrupted(self) -> None:
        """Record that the running trials were stopped."""
        for record in self.results.trials():
            if record["status"] == "running":
                self.results.update(record["trial_id"], "interrupted", finished=now())
                self.progress.ended(record["trial_id"], "interrupted", None)


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


class _Decide:
    """The pruner's actor as a function that workers can be sent."""

    def __init__(self, pruner: Any) -> None:
        self._pruner = pruner

    def __call__(self, arm: str, rung: int, values: Sequence[float]) -> Decision:
        decision: Decision = ray.get(self._pruner.decide.remote(arm, rung, tuple(values)))
        return decision


def _tune_folder(root: str, *, logs: bool = False) -> Path:
    """Folder that Tune writes to; logs in it are kept."""
    return Path(root) / "logs" if logs else ray_folder(root) / "tune"


def _trainable(job: Job, resources: Mapping[str, float]) -> type[Trainable]:
    """Trainable of an arm; Ray's dashboard shows its class and `repr`."""

    def trial(config: dict[str, Any]) -> None:
        run_arm(config["trials"], job, tune.report)

    # Of a class it would make another one, with another name.
    function = wrap_function(tune.with_resources(trial, dict(resources)))
    # An actor that is used again keeps the `repr` that it has begun with.
    named = {"__repr__": lambda self: self.trial_name} if job.named else {}
    return type("Trial", (function,), named)


def _trial_name(trial: Any) -> str:
    """The id of a single trial; for several seeds their common prefix, workload and arm."""
    first, *others = trial.config["trials"]
    name: str = first if not others else first.rpartition("-s")[0]
    return name


class _Events(tune.Callback):
    """Forwards Tune's events, and ends its loop when it cannot continue."""

    def __init__(self, study: _Study, watch: Watch) -> None:
        self._study, self._watch = study, watch
        self._problem: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into a file that nobody reads; a live table has no pickle.
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._watch.lost is not None or self._problem is not None:
            raise Halt from self._problem

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._study.started(trial.config["trials"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        if "disk_full" in result:
            self._problem = OSError(errno.ENOSPC, result["disk_full"])
        elif "memory_short" in result:
            self._problem = MemoryShort(result["memory_short"])
        elif "status" in result:
            self._study.ended(result)
        elif "kept" not in result:
            self._study.progress.epoch(result["trial"], result)
