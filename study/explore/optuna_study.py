"""Optuna storage of an exploration: `RESULTS/optuna.journal`.

It has one trial for each reference and each sample, however often the driver was killed;
`optuna-dashboard` and `optuna.load_study` open it.
"""

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from adacomcat.checks import require
from adacomcat.io.trace import Rows, read_rows
from study.explore.samplers import OUTSIDE
from study.spec.expand import suggested_arm
from study.spec.exploration import Exploration
from study.spec.objectives import METRICS
from study.spec.schema import Arm, Experiment
from study.spec.space import quasi_random
from study.store import Results


def journal(results: Results) -> Path:
    """The file of Optuna's storage."""
    return results.root / "optuna.journal"


def open_study(experiment: Experiment, results: Results) -> optuna.Study:
    """Open the study for its only driver; the first time, and after an extension, fill its queue.

    The references are enqueued first, in their order, each with its name as the user attribute
    `arm`; then the quasi-random points. What was enqueued before is not enqueued again.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    exploration, path = exploration_of(experiment), journal(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A kill may leave half a line, to which the next one would be glued, and a lock that Optuna
    # would wait for. Nobody holds it: there is one driver.
    Rows(path).close()
    read_rows(path)  # Optuna would name neither the file nor the line of what is damaged.
    Path(f"{path}.lock").unlink(missing_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=experiment.name,
        directions=[METRICS[name].direction for name in exploration.objectives],
        load_if_exists=True,
    )
    trials = study.get_trials(deepcopy=False)
    there = {trial.user_attrs.get("arm") for trial in trials}
    for arm in experiment.arms:
        if arm.name not in there:
            point = exploration.points.get(arm.name)
            mark = {} if point is not None else {OUTSIDE: "the space cannot express it"}
            study.enqueue_trial(dict(point or {}), user_attrs={"arm": arm.name, **mark})
    points = quasi_random(exploration.space, exploration.start, exploration.seed)
    before = sum("point" in trial.user_attrs for trial in trials)
    for number, point in enumerate(points[before : exploration.samples], start=before):
        study.enqueue_trial(point, user_attrs={"point": number})
    return study


def read_study(experiment: Experiment, results: Results) -> optuna.Study:
    """The study in its current state, also while its driver runs; read-only.

    Raises:
        ValueError: there is none.
    """
    path = journal(results)
    require(path.is_file(), "results", str(path), "the storage of a study that has begun")
    read_rows(path)  # Optuna would name neither the file nor the line of what is damaged.
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = [study.study_name for study in storage.get_all_studies()]
    require(experiment.name in names, f"{path}: study", experiment.name, ", ".join(names))
    return optuna.load_study(study_name=experiment.name, storage=storage)


def left(experiment: Experiment, study: optuna.Study) -> int:
    """Number of arms still to run.

    These are the references and samples that have not ended, those that a killed driver left
    running among them, and the finished arms that lack a seed of the experiment.
    """
    trials = study.get_trials(deepcopy=False)
    ended = sum(trial.state.is_finished() for trial in trials)
    return max(0, goal(experiment) - ended) + len(short_of_seeds(experiment, study))


def explored_arms(experiment: Experiment, study: optuna.Study) -> list[tuple[Arm, FrozenTrial]]:
    """The arms that were started, each once and with its first Optuna trial, in order."""
    found: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if "trials" in trial.user_attrs:
            found.setdefault(trial.user_attrs["arm"], trial)
    return [(arm_of(experiment, trial), trial) for trial in found.values()]


def fail_arm(experiment: Experiment, results: Results, arm: str, error: str) -> None:
    """Report to Optuna that an arm, which it considers running, has failed.

    Args:
        experiment: with an exploration.
        results: of the study, whose only driver this is.
        arm: its name.
        error: why; the first line is kept.
    """
    study = open_study(experiment, results)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get("arm") == arm:
            optuna.Trial(study, trial._trial_id).set_user_attr("error", error.partition("\n")[0])
            study.tell(trial.number, state=TrialState.FAIL)


def exploration_of(experiment: Experiment) -> Exploration:
    """The exploration of an experiment that has one."""
    assert experiment.exploration is not None, experiment.name
    return experiment.exploration


def goal(experiment: Experiment) -> int:
    """Optuna trials of the whole study."""
    return len(experiment.arms) + exploration_of(experiment).samples


def arm_of(experiment: Experiment, trial: FrozenTrial | optuna.Trial) -> Arm:
    """The arm of a trial with all its parameters: a reference, or the arm that they define."""
    by_name = {arm.name: arm for arm in experiment.arms}
    name = trial.user_attrs.get("arm")
    if name is None:
        # A suggestion equal to a reference must not run it again under another name.
        points = exploration_of(experiment).points.items()
        name = next((arm for arm, point in points if point == trial.params), None)
    return by_name[name] if name in by_name else suggested_arm(experiment, trial.params)


def short_of_seeds(experiment: Experiment, study: optuna.Study) -> list[Arm]:
    """The finished arms that lack a seed, after an extension by seeds."""
    wider = study.user_attrs
    found = []
    for arm, trial in explored_arms(experiment, study):
        if trial.state == TrialState.COMPLETE:
            seeds = wider.get(f"seeds:{arm.name}", trial.user_attrs["seeds"])
            if not set(experiment.seeds) <= set(seeds):
                found.append(arm)
    return found
