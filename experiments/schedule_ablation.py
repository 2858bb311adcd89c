"""Controls for `adaptive`: as many searches at other epochs, once, never, every epoch.

`adaptive` against controls with exactly as many searches, seed by seed: evenly spaced, all at the
first epochs, at random (several draws), and at the epochs that were best in hindsight. Beside them
`never`, `once`, one search without training (`sensitivity`), a search at every epoch, and one at
every epoch until a search first confirms the plan. All searching arms begin at epoch 1.
"""

from typing import Any

from experiments.adaptive_vs_fixed import sensitivity
from study.spec.expand import RESOLVED
from study.spec.schema import Arm, Experiment, Need, Workload

DRAWS = 3
FOREVER = 1e9
"""Growth after which no epoch is due any more."""


def experiment(workload: Workload, seeds: int = 5) -> Experiment:
    """Eleven schedules, and a search without training, on one workload.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm.
    """
    draws = [
        _matched(f"random_{n}", f"random, as many ({n})", "random_schedule", draw=n)
        for n in range(1, DRAWS + 1)
    ]
    return Experiment(
        name="schedule_ablation",
        question="Is it how many searches, when they are, or that the schedule listens?",
        workload=workload,
        arms=(
            _arm("never", "never (uniform ranks)", kind="never"),
            _arm("once", "once", kind="once"),
            sensitivity(),
            _arm("fixed_1", "every epoch", kind="fixed", every=1),
            _arm("adaptive", "adaptive", kind="adaptive"),
            _arm("settled", "until it settles", kind="adaptive", growth=FOREVER),
            _matched("even", "even, as many", "even_schedule"),
            _matched("front", "first epochs, as many", "front_schedule"),
            *draws,
            _matched("oracle", "oracle (hindsight)", "oracle_schedule", plans="fixed_1"),
        ),
        seeds=tuple(range(seeds)),
        figures=("fig_accuracy_vs_searches", "table_staleness"),
    )


def _arm(name: str, label: str, **schedule: Any) -> Arm:
    return Arm(name=name, label=label, overrides={"schedule": schedule})


def _matched(
    name: str, label: str, resolver: str, plans: str | None = None, **schedule: int
) -> Arm:
    """An arm with as many searches as `adaptive` took with the same seed."""
    needs = [Need(arm="adaptive", role="count")]
    if plans is not None:
        needs.append(Need(arm=plans, role="plans"))
    overrides = {"schedule": {"kind": RESOLVED, **schedule}}
    return Arm(name=name, label=label, overrides=overrides, needs=tuple(needs), resolver=resolver)
