"""Three schedules at reductions from 0.3 to 0.8."""

from typing import Any

from study.spec.schema import Arm, Experiment, Workload

REDUCTIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SPREAD = (0.4, 0.8, 1.2, 1.6)
"""Candidates around the rank that the budget allows on average, as shares of it."""
OVERHEAD = 1.15
"""Cost of a site at a rank of f times its full rank, over f times its dense cost: 1 for
attention, 1.25 for MLPs four times as wide as the tokens."""


def experiment(workload: Workload, seeds: int = 5) -> Experiment:
    """`never`, `adaptive` and a search at every epoch, at six reductions.

    A search chooses among a few ranks, so that the ranks must follow the budget: where the
    workload's space is a list of fractions, each budget has its own, centered on what it allows.
    Menus (`space: paper`) stay as they are.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm.
    """
    centered = workload.defaults.get("method", {}).get("space", "fractions") != "paper"
    schedules: dict[str, tuple[str, dict[str, Any]]] = {
        "never": ("never", {"kind": "never"}),
        "adaptive": ("adaptive", {"kind": "adaptive"}),
        "fixed_1": ("every epoch", {"kind": "fixed", "every": 1}),
    }
    arms = [
        Arm(
            name=f"{name}_{round(100 * reduction)}",
            label=f"{label}, -{reduction:.0%}",
            overrides={
                "schedule": schedule,
                "budget": {"reduction": reduction},
                **({"method.fractions": centered_fractions(reduction)} if centered else {}),
            },
        )
        for reduction in REDUCTIONS
        for name, (label, schedule) in schedules.items()
    ]
    return Experiment(
        name="budget_sweep",
        question="What does searching buy at other budgets?",
        workload=workload,
        arms=tuple(arms),
        seeds=tuple(range(seeds)),
        figures=("fig_accuracy_vs_cost",),
    )


def centered_fractions(reduction: float) -> list[float]:
    """Candidates around the share of the full rank that a reduction allows on average."""
    center = (1 - reduction) / OVERHEAD
    return [round(min(1.0, share * center), 4) for share in SPREAD]
