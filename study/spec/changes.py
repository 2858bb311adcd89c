"""Changes that command-line flags make to an experiment."""

from typing import Any

from adacomcat.checks import require
from study.spec.schema import Experiment


def with_flags(
    experiment: Experiment,
    *,
    seeds: int | None = None,
    samples: int | None = None,
    sampler: str | None = None,
    objectives: str | None = None,
    no_stopping: bool = False,
) -> Experiment:
    """An experiment changed by flags; None and False leave it as it is.

    Args:
        experiment: to change.
        seeds: how many, from 0 on.
        samples: how many arms an exploration suggests.
        sampler: its name.
        objectives: their names, separated by commas.
        no_stopping: whether every suggested arm runs to its end.

    Raises:
        ValueError: a refused value, or a flag of explorations for a grid.
    """
    if seeds is not None:
        experiment = experiment.replace(seeds=tuple(range(seeds)))
    names = None if objectives is None else tuple(map(str.strip, objectives.split(",")))
    asked = {"samples": samples, "sampler": sampler, "objectives": names}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if no_stopping:
        changes["stopping"] = None
    if not changes:
        return experiment
    if experiment.exploration is None:
        name = next(iter(changes))
        flag, got = ("--no-stopping", True) if name == "stopping" else (f"--{name}", changes[name])
        require(False, flag, got, f"nothing: {experiment.name} is a grid, it explores nothing")
    assert experiment.exploration is not None
    return experiment.replace(exploration=experiment.exploration.replace(**changes))
