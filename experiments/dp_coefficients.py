"""Exploration of the coefficients of the recurrence: accuracy against searches.

Optuna looks for them among the schedules of kind `adaptive`, together with the clock of the
annealing, which decides how hot the searches of a rare schedule are. The references run first and
to the end: `published` has the coefficients of the paper, `fixed_1` (growth 1) and `once` are the
ends between which every schedule lies.
"""

import math

from adacomcat.overrides import build_config
from adacomcat.schedule import Adaptive
from study.spec.exploration import Dimension, Exploration, Stopping, early_rungs
from study.spec.schema import Arm, Experiment, Workload


def experiment(workload: Workload, seeds: int = 2) -> Experiment:
    """The space of the recurrence on one workload.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm, whose mean is what counts.
    """
    config = build_config(workload.defaults)
    epochs = config.search_phase.epochs
    # None where a trial has too few epochs to be stopped within them.
    rungs = early_rungs(epochs + config.finetune.epochs)
    default = Adaptive()
    published = {
        "growth": default.growth,
        "divide": False,
        "tolerance": default.tolerance,
        "capped": False,
        "warmup": default.warmup,
        "due": default.rule,
        "clock": config.search.clock,
    }
    return Experiment(
        name="dp_coefficients",
        question="Which coefficients of the recurrence pay?",
        workload=workload,
        arms=(
            _arm("published", "published coefficients", "adaptive"),
            _arm("fixed_1", "every epoch", "fixed"),
            _arm("once", "once", "once"),
        ),
        seeds=tuple(range(seeds)),
        exploration=Exploration(
            space=_space(epochs),
            objectives=("val_acc", "searches"),
            samples=21,
            overrides={"schedule": {"kind": "adaptive"}},
            # An interval that never grows is a search every epoch.
            points={"published": published, "fixed_1": published | {"growth": 1.0}},
            stopping=Stopping(rungs=rungs) if rungs else None,
        ),
    )


def _space(epochs: int) -> tuple[Dimension, ...]:
    """The coefficients, with the bounds that follow from the epochs of the search phase."""
    # From its square root on, two searches that confirm the plan end the searching.
    growth = max(3.0, math.sqrt(epochs))
    yes_or_no = (False, True)
    return (
        Dimension(
            name="growth", setting="schedule.growth", kind="float", low=1.0, high=round(growth, 2)
        ),
        # Off, a changed plan resets the interval to 1.
        Dimension(name="divide", kind="choice", choices=yes_or_no),
        Dimension(
            name="shrink",
            setting="schedule.shrink",
            kind="float",
            low=1.25,
            high=8.0,
            log=True,
            when={"divide": True},
        ),
        # One site of 16 that moves by one rank is a distance of about 0.02; 0.1 is as far apart as
        # any two plans of the digits were.
        Dimension(name="tolerance", setting="schedule.tolerance", kind="float", low=0.0, high=0.1),
        Dimension(name="capped", kind="choice", choices=yes_or_no),
        Dimension(
            name="max_interval",
            setting="schedule.max_interval",
            kind="int",
            low=2,
            high=max(epochs, 3),
            log=True,
            when={"capped": True},
        ),
        Dimension(
            name="warmup", setting="schedule.warmup", kind="int", low=1, high=max(epochs // 4, 2)
        ),
        Dimension(name="due", setting="schedule.due", kind="choice", choices=("modulo", "elapsed")),
        Dimension(
            name="clock",
            setting="search.clock",
            kind="choice",
            choices=("per_epoch", "per_search"),
        ),
    )


def _arm(name: str, label: str, kind: str) -> Arm:
    return Arm(name=name, label=label, overrides={"schedule": {"kind": kind}})
