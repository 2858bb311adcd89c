"""The searcher through which Ray Tune asks Optuna for arms, and Optuna hears how they ended."""

import functools
import logging
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from study.explore.optuna_study import (
    arm_of,
    exploration_of,
    fill,
    goal,
    journal,
    open_storage,
    short_of_seeds,
)
from study.explore.outcome import Outcome, read_outcome
from study.explore.samplers import OUTSIDE, make_sampler
from study.spec.expand import arm_specs
from study.spec.objectives import METRICS
from study.spec.schema import Arm, Experiment, TrialSpec
from study.spec.space import suggest
from study.store import Results

logger = logging.getLogger(__name__)

TOLD = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
"""Status of an arm that has ended -> what Optuna is told."""


@dataclass(frozen=True)
class _Running:
    """What one Tune trial runs."""

    arm: Arm
    specs: list[TrialSpec]
    number: int | None
    """Of the Optuna trial; None for an arm of which Optuna has been told, and that gets seeds."""


class StudySearch(OptunaSearch):
    """Suggests arms to Ray Tune, and tells Optuna what the store says of them.

    First come the trials that a dead driver left running, then finished arms that lack a seed, then
    what is enqueued, then what the sampler draws. Reports are not listened to: an arm is judged by
    the rows of its trials.

    Its user attributes are `arm`, `seeds`, `trials` (folders, from the results directory on),
    `commit`, `rungs` (epochs -> objectives), and `error` or `stopped` where it ended so.
    """

    def __init__(self, experiment: Experiment, results: Results) -> None:
        storage = open_storage(results)
        self._journal, self._study = storage, fill(experiment, storage, journal(results))
        self._experiment, self._results = experiment, results
        self._exploration = exploration = exploration_of(experiment)
        self._running: dict[str, _Running] = {}
        self._started: set[int] = set()
        self._short = short_of_seeds(experiment, self._study)
        self._broken: OSError | None = None
        modes = [METRICS[name].direction[:3] for name in exploration.objectives]
        several = len(modes) > 1
        super().__init__(
            space=functools.partial(suggest, exploration.space),
            metric=list(exploration.objectives) if several else exploration.objectives[0],
            mode=modes if several else modes[0],
            sampler=make_sampler(exploration, 0),
            study_name=experiment.name,
            storage=storage,
        )

    @property
    def metric(self) -> Any:
        """None: Tune would refuse every report that lacks an objective, and none is listened to."""
        return None

    def suggest(self, trial_id: str) -> Any:
        """The trials of an arm to run; their records are made.

        Returns:
            `{"trials": [...]}`, the id of a trial for each seed; `FINISHED` when nothing is
            left.

        Raises:
            OSError: the storage or the store cannot be written.
        """
        if self._broken is not None:
            raise self._broken
        running = self._adopt() or self._widen() or self._ask()
        if running is None:
            return Searcher.FINISHED
        for spec in running.specs:
            self._results.add(spec)
        self._running[trial_id] = running
        return {"trials": [spec.trial_id for spec in running.specs]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the store has it."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how an arm ended.

        All seeds finished: COMPLETE, with the mean of each objective. Stopped: PRUNED, without
        values. Failed, or with an objective that is no finite number: FAIL, with the reason. An arm
        that was interrupted stays RUNNING, and the next driver goes on with it.
        """
        running = self._running.pop(trial_id, None)
        if running is None or self._broken is not None:
            return
        try:
            end = self._end(running, error)
            if running.number is None:
                if end is not None and end.status == "finished":
                    seeds = list(self._experiment.seeds)
                    self._study.set_user_attr(f"seeds:{running.arm.name}", seeds)
            elif end is not None:
                self._tell(running.number, end)
        except OSError as problem:
            # Nothing is lost: the store has the arm, and the next driver tells of it. But half a
            # line may have been written, to which nothing must be added.
            logger.warning("%s: %s", journal(self._results), problem)
            self._broken = problem

    def _adopt(self) -> _Running | None:
        """Go on with a trial of a dead driver; parameters that it lacks are drawn now."""
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and trial.number not in self._started:
                self._study.sampler = make_sampler(self._exploration, trial.number)
                running = self._start(optuna.Trial(self._study, self._storage_id(trial.number)))
                if running is not None:
                    return running
        return None

    def _widen(self) -> _Running | None:
        if not self._short:
            return None
        arm = self._short.pop(0)
        return _Running(arm, arm_specs(self._experiment, arm), None)

    def _ask(self) -> _Running | None:
        while True:
            trials = self._trials()
            waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
            if len(trials) - len(waiting) >= goal(self._experiment):
                return None
            number = waiting[0] if waiting else len(trials)
            self._study.sampler = make_sampler(self._exploration, number)
            trial = self._study.ask()
            assert trial.number == number, (trial.number, number)
            running = self._start(trial)
            if running is not None:
                return running

    def _start(self, trial: optuna.Trial) -> _Running | None:
        """The arm of a trial; None where it makes no trial of ours, of which Optuna is told."""
        self._started.add(trial.number)
        if OUTSIDE not in trial.user_attrs:
            suggest(self._exploration.space, trial)
        storage_id = self._storage_id(trial.number)
        try:
            arm = arm_of(self._experiment, self._journal.get_trial(storage_id))
            specs = arm_specs(self._experiment, arm)
        except ValueError as error:
            self._tell(trial.number, Outcome("failed", error=str(error)))
            return None
        folders = [self._results.folder(spec.trial_id) for spec in specs]
        trial.set_user_attr("arm", arm.name)
        trial.set_user_attr("seeds", [spec.seed for spec in specs])
        root = self._results.root
        trial.set_user_attr("trials", [folder.relative_to(root).as_posix() for folder in folders])
        return _Running(arm, specs, trial.number)

    def _end(self, running: _Running, error: bool) -> Outcome | None:
        """How the store says that an arm ended; None where it goes on another time."""
        ids = [spec.trial_id for spec in running.specs]
        outcome = read_outcome(ids, self._exploration, self._results)
        if outcome.status in TOLD:
            return outcome
        return replace(outcome, status="failed", error="its worker was lost") if error else None

    def _tell(self, number: int, outcome: Outcome) -> None:
        storage_id = self._storage_id(number)
        details = {name: getattr(outcome, name) for name in ("commit", "rungs", "error", "stopped")}
        for name, value in details.items():
            if value:
                self._journal.set_trial_user_attr(storage_id, name, value)
        # Of a stopped trial with intermediate values Optuna's TPE asks the study's only direction,
        # and raises where there are several. `Trial.report` refuses several objectives altogether.
        if outcome.status != "stopped" or len(self._exploration.objectives) == 1:
            for rung, values in outcome.rungs.items():
                self._journal.set_trial_intermediate_value(storage_id, rung, values[0])
        self._study.tell(number, outcome.values, state=TOLD[outcome.status])

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _storage_id(self, number: int) -> int:
        study = self._journal.get_study_id_from_name(self._experiment.name)
        return self._journal.get_trial_id_from_study_id_trial_number(study, number)
