"""Search strategies at equal cost, with truncation of three kinds, at several reductions.

All arms search once, before anything is trained, in the same fine space of ranks that fills the
budget; then both phases train as the workload's recipe says. With `--set finetune.epochs=0` nothing
is trained after the search: that is the accuracy of compression alone.

`plain` truncates the weights, `inputs` for the layers' outputs on 64 images, `gradients` for the
model's output. `sensitivity` and `measured` need the last. `gradient` trains a supernet on labels
for one pass over the search split; the other strategies see no labels.
"""

from study.spec.schema import Arm, Experiment, Workload

REDUCTIONS = (0.3, 0.5, 0.7)
METRICS = {"plain": "plain", "inputs": "calibrated", "gradients": "two-sided"}
"""`method.metrics` -> its name in labels."""
STRATEGIES = {
    "uniform": tuple(METRICS),
    "energy": tuple(METRICS),
    "effective_rank": tuple(METRICS),
    "sensitivity": ("gradients",),
    "measured": ("gradients",),
    "gradient": ("plain", "gradients"),
}
"""`search.strategy` -> metrics that it is tried with."""


def experiment(workload: Workload, seeds: int = 5) -> Experiment:
    """Thirteen pairs of a strategy and metrics, at three reductions.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm.
    """
    arms = [
        Arm(
            name=f"{strategy}_{metrics}_{round(100 * reduction)}",
            label=f"{strategy.replace('_', ' ')}, {METRICS[metrics]}, -{reduction:.0%}",
            overrides={
                "schedule": {"kind": "explicit", "epochs": [0]},
                "search_phase": {"epochs": 1, "frozen": True},
                "search.strategy": strategy,
                "method.metrics": metrics,
                "method.space": "fine",
                "budget": {"reduction": reduction},
            },
        )
        for reduction in REDUCTIONS
        for strategy, kinds in STRATEGIES.items()
        for metrics in kinds
    ]
    return Experiment(
        name="strategies_compared",
        question="Which search is worth its cost, and what does the truncation matter?",
        workload=workload,
        arms=tuple(arms),
        seeds=tuple(range(seeds)),
        figures=("fig_accuracy_vs_cost",),
    )
