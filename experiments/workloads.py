"""Workloads of a study: every recipe of `adacomcat.recipes`."""

from adacomcat.recipes import recipes
from study.spec.schema import Workload


def workloads() -> tuple[Workload, ...]:
    """All workloads; the first is the default."""
    return tuple(
        Workload(name=recipe.name, description=recipe.description, defaults=dict(recipe.settings))
        for recipe in recipes()
    )
