"""Tune searcher that takes arms from Optuna and reports their results to it."""

from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from study.explore.optuna_study import (
    arm_of,
    exploration_of,
    goal,
    left,
    open_study,
    short_of_seeds,
)
from study.explore.outcome import ArmOutcome, read_outcome
from study.explore.samplers import OUTSIDE, make_sampler
from study.spec.expand import arm_specs
from study.spec.schema import Arm, Experiment, TrialSpec
from study.spec.space import suggest
from study.store import Results

TOLD = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
"""Status of an ended arm -> its state in Optuna."""


@dataclass(frozen=True)
class _Running:
    """The arm of one Tune trial.

    Attributes:
        arm, specs: as said.
        trial: of Optuna; None for a finished arm, known to Optuna, that gets more seeds.
    """

    arm: Arm
    specs: list[TrialSpec]
    trial: optuna.Trial | None


class OptunaSearcher(Searcher):
    """Ask-and-tell loop between Ray Tune and Optuna; one Tune trial is an arm with all its seeds.

    Suggested are, in this order, the arms that a killed driver left running, finished arms that
    lack a seed, enqueued references and points, and what the sampler draws. Tune's reports are
    ignored: the results directory says how an arm ended.

    User attributes of an Optuna trial: `arm`, `seeds`, `trials` (folders relative to the results
    directory), `commit`, `rungs` (epochs -> objectives), and `error` or `stopped`.
    """

    def __init__(self, experiment: Experiment, results: Results) -> None:
        # Without metric and mode, which Tune would look for in every report.
        super().__init__()
        self._experiment, self._results = experiment, results
        self._exploration = exploration_of(experiment)
        self._study = open_study(experiment, results)
        self._unfinished = [t for t in self._trials() if t.state == TrialState.RUNNING]
        self._short = short_of_seeds(experiment, self._study)
        self._running: dict[str, _Running] = {}

    @property
    def left(self) -> int:
        """Number of arms still to run."""
        return left(self._experiment, self._study)

    def suggest(self, trial_id: str) -> Any:
        """The next arm; creates the records of its trials.

        Returns:
            `trials`, the trial id of each seed, and `params` of the arm; `FINISHED` when nothing
            is left.

        Raises:
            OSError: the storage or the results directory cannot be written.
        """
        running = self._next()
        if running is None:
            return Searcher.FINISHED
        for spec in running.specs:
            self._results.add(spec)
        self._running[trial_id] = running
        params = running.trial.params if running.trial else {}
        return {"trials": [spec.trial_id for spec in running.specs], "params": params}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the end of an arm to Optuna.

        All seeds finished: COMPLETE, with the mean of each objective. Stopped: PRUNED, without
        values. Failed, or an objective that is not finite: FAIL, with the reason. An interrupted
        arm stays RUNNING, and the next driver continues it.

        Raises:
            OSError: the storage cannot be written.
        """
        running = self._running.pop(trial_id, None)
        if running is None:
            return
        ids = [spec.trial_id for spec in running.specs]
        outcome = read_outcome(ids, self._exploration, self._results)
        if outcome.status not in TOLD:
            if not error:
                return
            outcome = replace(outcome, status="failed", error="its worker was lost")
        if running.trial is not None:
            self._tell(running.trial, outcome)
        elif outcome.status == "finished":
            self._study.set_user_attr(f"seeds:{running.arm.name}", list(self._experiment.seeds))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the state is in Optuna's storage."""

    def _next(self) -> _Running | None:
        while True:
            if self._unfinished:
                found = self._unfinished.pop(0)
                self._study.sampler = make_sampler(self._exploration, found.number)
                trial = optuna.Trial(self._study, found._trial_id)
            elif self._short:
                arm = self._short.pop(0)
                return _Running(arm, arm_specs(self._experiment, arm), None)
            else:
                trials = self._trials()
                waiting = [t.number for t in trials if t.state == TrialState.WAITING]
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
        """The arm of a trial; None, reported to Optuna, if its parameters make no valid trial."""
        if OUTSIDE not in trial.user_attrs:
            suggest(self._exploration.space, trial)
        try:
            arm = arm_of(self._experiment, trial)
            specs = arm_specs(self._experiment, arm)
        except ValueError as error:
            self._tell(trial, ArmOutcome("failed", error=str(error)))
            return None
        root = self._results.root
        folders = [self._results.folder(spec.trial_id).relative_to(root) for spec in specs]
        trial.set_user_attr("arm", arm.name)
        trial.set_user_attr("seeds", [spec.seed for spec in specs])
        trial.set_user_attr("trials", [folder.as_posix() for folder in folders])
        return _Running(arm, specs, trial)

    def _tell(self, trial: optuna.Trial, outcome: ArmOutcome) -> None:
        for name in ("commit", "rungs", "error", "stopped"):
            if getattr(outcome, name):
                trial.set_user_attr(name, getattr(outcome, name))
        # Optuna takes intermediate values of a single objective only.
        if len(self._exploration.objectives) == 1:
            for rung, values in outcome.rungs.items():
                trial.report(values[0], rung)
        self._study.tell(trial, outcome.values, state=TOLD[outcome.status])

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)
