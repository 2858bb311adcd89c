"""The study in Optuna's storage: `RESULTS/optuna.journal`.

It holds one trial for every reference and every sample, however often the driver was killed;
`optuna-dashboard` and `optuna.load_study` open it.
"""

import json
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from adacomcat.checks import require
from adacomcat.io.trace import Rows
from adacomcat.settings import differences
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

    Raises:
        ValueError: the storage holds a study with other objectives or another space.
    """
    return fill(experiment, open_storage(results), journal(results))


def read_study(experiment: Experiment, results: Results) -> optuna.Study:
    """The study as it stands, also while its driver lives; nothing is written.

    Raises:
        ValueError: there is none.
    """
    path = journal(results)
    require(path.is_file(), "results", str(path), "the storage of a study that has begun")
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = [study.study_name for study in storage.get_all_studies()]
    require(experiment.name in names, f"{path}: study", experiment.name, ", ".join(names))
    return optuna.load_study(study_name=experiment.name, storage=storage)


def left(experiment: Experiment, study: optuna.Study) -> int:
    """How many Tune trials are still to run.

    These are the references and samples that have not ended, those that a dead driver left among
    them, and the finished arms that lack a seed of the experiment.
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


def exploration_of(experiment: Experiment) -> Exploration:
    """The exploration of an experiment that has one."""
    assert experiment.exploration is not None, experiment.name
    return experiment.exploration


def goal(experiment: Experiment) -> int:
    """Optuna trials of the whole study."""
    return len(experiment.arms) + exploration_of(experiment).samples


def arm_of(experiment: Experiment, trial: FrozenTrial) -> Arm:
    """The arm of a trial that has all its parameters: a reference, or what these make."""
    by_name = {arm.name: arm for arm in experiment.arms}
    name = trial.user_attrs.get("arm")
    if name is None:
        # Who comes back to a reference must not run it again under another name.
        points = exploration_of(experiment).points.items()
        name = next((arm for arm, point in points if point == trial.params), None)
    return by_name[name] if name in by_name else suggested_arm(experiment, trial.params)


def open_storage(results: Results) -> JournalStorage:
    """The storage for its only driver, without what a kill may have left in it."""
    path = journal(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a kill leaves: half a line, to which the next one would be glued, and a lock that Optuna
    # would wait for. Nobody holds it: there is one driver.
    Rows(path).close()
    Path(f"{path}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def fill(experiment: Experiment, storage: JournalStorage, path: Path) -> optuna.Study:
    """The study of a storage, its references and first points enqueued; see `open_study`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    exploration = exploration_of(experiment)
    study = optuna.create_study(
        storage=storage,
        study_name=experiment.name,
        directions=[METRICS[name].direction for name in exploration.objectives],
        load_if_exists=True,
    )
    _check_same(exploration, study, path)
    trials = study.get_trials(deepcopy=False)
    there = {trial.user_attrs.get("arm") for trial in trials}
    for arm in experiment.arms:
        if arm.name not in there:
            point = exploration.points.get(arm.name)
            mark = {} if point is not None else {OUTSIDE: "the space cannot express it"}
            study.enqueue_trial(dict(point or {}), user_attrs={"arm": arm.name, **mark})
    # As many as the study began with: an extension goes on where the sampler has come to.
    start = study.user_attrs["start"]
    points = quasi_random(exploration.space, start, exploration.seed)[: exploration.samples]
    before = sum("point" in trial.user_attrs for trial in trials)
    for number, point in enumerate(points[before:], start=before):
        study.enqueue_trial(point, user_attrs={"point": number})
    return study


def _check_same(exploration: Exploration, study: optuna.Study, path: Path) -> None:
    """Note what the study is about; refuse to go on with another one."""
    space = {dimension.name: dimension.model_dump(mode="json") for dimension in exploration.space}
    objectives = list(exploration.objectives)
    there = study.user_attrs
    for key, value in (
        ("objectives", objectives),
        ("space", space),
        ("start", exploration.start),
    ):
        if key not in there:
            study.set_user_attr(key, value)
    before = there.get("objectives", objectives)
    allowed = f"{before}, which {path} holds; give another --results"
    require(objectives == before, "exploration.objectives", objectives, allowed)
    asked, known = json.loads(json.dumps(space)), there.get("space", space)
    common = [name for name in asked if name in known]
    changed = [
        *(f"no {name}" for name in known if name not in asked),
        *(f"a new {name}" for name in asked if name not in known),
        *differences({n: known[n] for n in common}, {n: asked[n] for n in common}),
    ]
    allowed = f"the space that {path} holds; give another --results"
    require(not changed, "exploration.space", ", ".join(changed[:5]), allowed)


def short_of_seeds(experiment: Experiment, study: optuna.Study) -> list[Arm]:
    """The finished arms that an extension by seeds has left behind."""
    wider = study.user_attrs
    found = []
    for arm, trial in explored_arms(experiment, study):
        if trial.state == TrialState.COMPLETE:
            seeds = wider.get(f"seeds:{arm.name}", trial.user_attrs["seeds"])
            if not set(experiment.seeds) <= set(seeds):
                found.append(arm)
    return found
