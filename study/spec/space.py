"""Parameter spaces: distributions for Optuna, space-filling points, resulting settings.

Parameters are conditional: one exists only if the conditions on earlier choices hold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from study.spec.exploration import Dimension

if TYPE_CHECKING:
    import optuna


def suggest(space: Sequence[Dimension], trial: "optuna.Trial") -> dict[str, Any]:
    """Ask an Optuna trial for every parameter that exists, given those before it.

    Returns:
        name -> value, in the order of the space.
    """
    params: dict[str, Any] = {}
    for dimension in space:
        if dimension.exists(params):
            params[dimension.name] = _ask(dimension, trial)
    return params


def _ask(dimension: Dimension, trial: "optuna.Trial") -> Any:
    if dimension.kind == "choice":
        return trial.suggest_categorical(dimension.name, dimension.choices)
    low, high = dimension.bounds
    if dimension.kind == "int":
        return trial.suggest_int(dimension.name, int(low), int(high), log=dimension.log)
    return trial.suggest_float(dimension.name, low, high, log=dimension.log)


def settings(space: Sequence[Dimension], params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that parameters make.

    Of two parameters that make the same setting the later one wins; a switch makes none.

    Returns:
        dotted setting -> value, as `adacomcat.overrides.build_config` takes it.
    """
    return {
        dimension.setting: params[dimension.name]
        for dimension in space
        if dimension.setting is not None and dimension.name in params
    }


def quasi_random(space: Sequence[Dimension], count: int, seed: int) -> list[dict[str, Any]]:
    """Points that spread evenly over a space: a scrambled Sobol sequence (Owen, 1998).

    Fewer points are the first of more. Every parameter has a coordinate of its own, also where it
    does not exist, so that each is spread evenly by itself.

    Args:
        space: what to fill.
        count: how many points.
        seed: of the scrambling.

    Returns:
        One mapping a point, as `suggest` gives it.
    """
    if count == 0:
        return []
    # Not at the top: the command line imports this module, and answers at once.
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(space), scramble=True, rng=seed)
    # A power of two, without which the sequence is not balanced.
    units = sequence.random_base2(math.ceil(math.log2(count)))[:count]
    points = []
    for row in units:
        params: dict[str, Any] = {}
        for dimension, unit in zip(space, row, strict=True):
            if dimension.exists(params):
                params[dimension.name] = _at(dimension, float(unit))
        points.append(params)
    return points


def _at(dimension: Dimension, unit: float) -> Any:
    """The value at a share (0 to 1) of a dimension; whole numbers and choices get equal shares."""
    if dimension.kind == "choice":
        return dimension.choices[
            min(int(unit * len(dimension.choices)), len(dimension.choices) - 1)
        ]
    low, high = dimension.bounds
    if dimension.kind == "int":
        # The half on both sides is what rounds to the bounds themselves.
        first, last = low - 0.5, high + 0.5
        return int(min(max(round(_between(first, last, unit, dimension.log)), low), high))
    return min(max(_between(low, high, unit, dimension.log), low), high)


def _between(low: float, high: float, unit: float, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
    return low + unit * (high - low)
