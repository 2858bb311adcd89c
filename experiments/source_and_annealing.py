"""The reference's choices changed one at a time, from the reference and from the defaults.

`ours` and `reference` differ in six choices: what a later search truncates, what the temperature
follows, which images a search sees, what becomes of the optimizer's state and of attention biases,
and whether truncation looks at activations. Each of the other arms is one end with a single choice
taken from the other.
"""

from typing import Any

from adacomcat.checks import require
from adacomcat.overrides import build_config
from study.spec.schema import Arm, Experiment, Workload

CHOICES: dict[str, tuple[str, Any, Any]] = {
    "source": ("method.source", "dense", "current"),
    "clock": ("search.clock", "per_epoch", "per_search"),
    "search_split": ("data.search_from", "train", "test"),
    "optimizer": ("search_phase.optimizer_state", "migrate", "rebuild"),
    "biases": ("method.biases", "exact", "drop"),
    "truncation": ("method.metrics", "inputs", "plain"),
}
"""Choice -> setting, our value, the reference's."""
ENDS = ("ours", "reference")


def experiment(workload: Workload, seeds: int = 5) -> Experiment:
    """Fourteen arms, all with the adaptive schedule.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm.

    Raises:
        ValueError: a workload that makes the reference's choices by itself.
    """
    free = build_config(workload.defaults).data.search_from == "train"
    require(free, "--workload", workload.name, "one that leaves the choices to this experiment")
    arms = [_arm(end, end, dict.fromkeys(CHOICES, end)) for end in ENDS]
    for end, other in (ENDS, ENDS[::-1]):
        for choice in CHOICES:
            taken = dict.fromkeys(CHOICES, end) | {choice: other}
            arms.append(
                _arm(f"{end}_but_{choice}", f"{end}, but {choice.replace('_', ' ')}", taken)
            )
    return Experiment(
        name="source_and_annealing",
        question="What does each choice of the reference cost or give?",
        workload=workload,
        arms=tuple(arms),
        seeds=tuple(range(seeds)),
        figures=("fig_confounds",),
    )


def _arm(name: str, label: str, taken: dict[str, str]) -> Arm:
    """An arm that takes each choice from one of the ends."""
    values = {
        CHOICES[choice][0]: CHOICES[choice][1 + ENDS.index(end)] for choice, end in taken.items()
    }
    return Arm(name=name, label=label, overrides={"schedule": {"kind": "adaptive"}, **values})
