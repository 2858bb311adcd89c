"""Adaptive against fixed schedules, at the same budget.

Controls: `never` takes uniform ranks, `once` shows what a single search is worth, `sensitivity`
searches once without training, by label-free gradients on 64 images, and `oracle` searches as often
as `adaptive` did, at the epochs that were best in hindsight. All arms meet the same budget, but a
search may end below it, and ranks only fall after the first one (as in the reference): compare
accuracies together with the parameters.
"""

from typing import Any

from study.spec.expand import RESOLVED
from study.spec.schema import Arm, Experiment, Need, Workload


def experiment(workload: Workload, seeds: int = 3) -> Experiment:
    """Eight schedules, and a search without training, on one workload.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm.
    """
    fixed = [
        _arm(f"fixed_{every}", _every(every), kind="fixed", every=every) for every in (8, 4, 2, 1)
    ]
    return Experiment(
        name="adaptive_vs_fixed",
        question="How often must the rank search run?",
        workload=workload,
        arms=(
            _arm("never", "never (uniform ranks)", kind="never"),
            _arm("once", "once", kind="once"),
            sensitivity(),
            *fixed,
            # The schedule's defaults are the published coefficients; left open, so that
            # `--set schedule.growth=3` can vary them.
            _arm("adaptive", "adaptive", kind="adaptive"),
            Arm(
                name="oracle",
                label="oracle (hindsight)",
                overrides={"schedule": {"kind": RESOLVED}},
                needs=(Need(arm="fixed_1", role="plans"), Need(arm="adaptive", role="count")),
                resolver="oracle_schedule",
            ),
        ),
        seeds=tuple(range(seeds)),
        figures=("fig_accuracy_vs_searches",),
    )


def sensitivity() -> Arm:
    """One search that trains nothing."""
    return Arm(
        name="sensitivity",
        label="once, by sensitivity",
        overrides={
            "schedule": {"kind": "once"},
            "search.strategy": "sensitivity",
            "method.metrics": "gradients",
        },
    )


def _arm(name: str, label: str, **schedule: Any) -> Arm:
    return Arm(name=name, label=label, overrides={"schedule": schedule})


def _every(epochs: int) -> str:
    return "every epoch" if epochs == 1 else f"every {epochs} epochs"
