"""Exploration of the reduction and of the settings that push the search to it.

Optuna looks for the target reduction and the exponent beta of the budget's penalty, on the
workload's own schedule. The references run first and to the end: `recipe` has the workload's budget
and the published beta, `never` meets the same budget with uniform ranks.
"""

from adacomcat.budget import COUNTED_IN
from adacomcat.checks import require
from adacomcat.overrides import build_config
from study.spec.exploration import Dimension, Exploration, Stopping, early_rungs
from study.spec.objectives import METRICS
from study.spec.schema import Arm, Experiment, Workload

BETA = 1.5
"""The published exponent (Adaptive-ComCAT)."""


def experiment(workload: Workload, seeds: int = 2) -> Experiment:
    """The space of budgets on one workload.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm, whose mean is what counts.

    Raises:
        ValueError: a workload whose budget is an absolute cost, or one in time.
    """
    config = build_config(workload.defaults)
    reduction, unit = config.budget.reduction, config.budget.unit
    if reduction is None:
        require(False, "budget.reduction", None, "a share: this experiment varies it")
        raise AssertionError
    counted = [name for name in METRICS if name in COUNTED_IN]
    require(unit in counted, "budget.unit", unit, f"{', '.join(counted)}: an epoch's row has them")
    budget = {"budget.reduction": reduction}
    schedule = config.schedule
    # None where a trial has too few epochs to be stopped within them.
    rungs = early_rungs(config.search_phase.epochs + config.finetune.epochs)
    return Experiment(
        name="budgets",
        question="How much can be removed, and how hard must the search be pushed to it?",
        workload=workload,
        arms=(
            Arm(
                name="recipe",
                label=f"the workload's budget, beta {BETA}",
                overrides={**budget, "search.beta": BETA, "schedule": dict(schedule)},
            ),
            Arm(
                name="never",
                label="never (uniform ranks)",
                overrides={**budget, "schedule": {"kind": "never"}},
            ),
        ),
        seeds=tuple(range(seeds)),
        exploration=Exploration(
            space=_space(reduction),
            objectives=("val_acc", unit),
            samples=22,
            overrides={"schedule": dict(schedule)},
            points={"recipe": {"reduction": reduction, "beta": BETA}},
            stopping=Stopping(rungs=rungs) if rungs else None,
        ),
    )


def _space(reduction: float) -> tuple[Dimension, ...]:
    # The candidates of a workload are centered on its budget: plans keep from half to
    # one and a half times what it keeps. Below the cheapest there is no plan; above the dearest
    # nothing binds.
    kept = 1 - reduction
    low, high = max(1 - 1.4 * kept, 0.01), 1 - 0.5 * kept
    return (
        Dimension(
            name="reduction",
            setting="budget.reduction",
            kind="float",
            low=round(low, 4),
            high=round(high, 4),
        ),
        Dimension(name="beta", setting="search.beta", kind="float", low=0.5, high=4.0, log=True),
    )
