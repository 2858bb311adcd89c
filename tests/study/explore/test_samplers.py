import warnings
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from study.explore.samplers import OUTSIDE, make_sampler
from study.spec.exploration import Dimension, Exploration
from study.spec.space import quasi_random, suggest

SPACE = (
    Dimension(name="x", setting="a", kind="float", low=0.0, high=1.0),
    Dimension(name="bent", kind="choice", choices=(False, True)),
    Dimension(name="y", setting="b", kind="float", low=0.0, high=1.0, when={"bent": True}),
)
REFERENCE = {"x": 0.123456789, "bent": False}


def explore(sampler: str, **fields: Any) -> Exploration:
    fixed = {"space": SPACE, "objectives": ("val_acc", "params"), "samples": 60}
    return Exploration(**(fixed | {"sampler": sampler} | fields))


def loss(params: dict[str, Any]) -> float:
    """Least, 0.1, at x = 0.7 without y."""
    return (params.get("x", 0.5) - 0.7) ** 2 + params.get("y", 0.1)


def run(exploration: Exploration, count: int, directions: list[str]) -> optuna.Study:
    """A study with a reference, one without parameters, points, and trials of every state."""
    study = optuna.create_study(directions=directions)
    study.enqueue_trial(REFERENCE)
    study.enqueue_trial({}, user_attrs={OUTSIDE: "no parameters"})
    for point in quasi_random(exploration.space, exploration.start, exploration.seed):
        study.enqueue_trial(point)
    for number in range(count):
        study.sampler = make_sampler(exploration, number)
        trial = study.ask()
        params = {} if OUTSIDE in trial.user_attrs else suggest(SPACE, trial)
        if number > 10 and number % 3 == 0:
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 10 == 5:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [-loss(params), params.get("x", 0.5)][: len(directions)])
    return study


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_sixty_trials_of_every_state_end_well_and_without_a_warning(
    sampler: str, directions: list[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = run(explore(sampler), 70, directions)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert all(("y" in t.params) == t.params["bent"] for t in study.trials if t.params)
    # They search: what is drawn in the end is better than what fills the space evenly.
    objectives = len(directions)

    def mean(points: list[dict[str, Any]]) -> float:
        return sum(loss(p) + (objectives - 1) * p["x"] for p in points) / len(points)

    late = [trial.params for trial in study.trials[-30:] if trial.params]
    assert mean(late) < 0.8 * mean(quasi_random(SPACE, 256, seed=0))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_suggestion_depends_on_the_number_and_the_storage_alone(sampler: str) -> None:
    drawn = []
    for number in (40, 40, 41):
        study = run(explore(sampler), 40, ["maximize", "minimize"])
        study.sampler = make_sampler(explore(sampler), number)
        drawn.append(suggest(SPACE, study.ask()))
    assert drawn[0] == drawn[1] != drawn[2]
    other = run(explore(sampler, seed=1), 40, ["maximize", "minimize"])
    other.sampler = make_sampler(explore(sampler, seed=1), 40)
    assert suggest(SPACE, other.ask()) != drawn[0]


def test_references_and_points_are_parents_of_nsga2() -> None:
    study = run(explore("nsga2", start=4), 60, ["maximize", "minimize"])
    first = [trial.params["x"] for trial in study.trials[:6] if trial.params]
    children = [trial.params["x"] for trial in study.trials[6:20]]
    assert set(first) & set(children)
    # Without parameters it is nobody's parent, and it does not keep the others from crossing over.
    assert study.trials[1].params == {}
    again = [x for x in children if children.count(x) > 1]
    assert again
