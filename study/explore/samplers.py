"""Optuna samplers, created anew for every suggestion.

What a sampler draws then depends on the number of the Optuna trial and on what the storage holds,
not on what the process drew before: a study that was killed goes on as one that was not.
"""

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial, TrialState

from adacomcat.seeds import derive_seed
from study.spec.exploration import Exploration

OUTSIDE = "outside"
"""User attribute of the trial of a reference that the space cannot express: it has no parameters,
only values."""

SMALLEST_POPULATION = 4
"""Two parents are drawn from a generation, and there must be something to choose."""


def make_sampler(exploration: Exploration, number: int) -> BaseSampler:
    """The sampler of one suggestion.

    The quasi-random points take the place of the random ones that both samplers begin with.

    Args:
        exploration: names the sampler and its seed.
        number: of the Optuna trial.
    """
    seed = derive_seed("sampler", exploration.seed, number) % 2**32
    if exploration.sampler == "nsga2":
        return _Nsga2(population_size=max(exploration.start, SMALLEST_POPULATION), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            n_startup_trials=exploration.start,
            # Parameters are drawn together, those that exist together as one group.
            multivariate=True,
            group=True,
            # A trial that runs counts as a bad one, or two at a time would be alike.
            constant_liar=True,
            seed=seed,
        )


class _Nsga2(NSGAIISampler):
    """NSGA-II whose first generation consists of the enqueued trials.

    Differs from Optuna's: enqueued trials are members of a generation (there only sampled ones
    are, so the quasi-random points and the references would never become parents), and a trial
    without parameters is not (there one is enough to leave nothing to cross over). Parameters that
    some trials lack are drawn at random, as in Optuna.
    """

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        if OUTSIDE not in trial.user_attrs:
            self.get_trial_generation(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        shared: dict[str, Any] = intersection_search_space([t for t in done if t.params])
        return {
            name: distribution for name, distribution in shared.items() if not distribution.single()
        }
