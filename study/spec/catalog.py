"""Experiments and workloads, found by name."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from adacomcat.checks import require_known
from adacomcat.overrides import build_config
from study.spec.expand import apply_settings, as_json
from study.spec.schema import Experiment, Workload
from study.store import Results

WORKLOADS = "workloads"
"""The module of `experiments` that is no experiment."""


def _experiments_package() -> Any:
    # By name, not by an import statement: experiments build on study, not study on experiments.
    return importlib.import_module("experiments")


def experiment_names() -> list[str]:
    """The modules of `experiments` that hold an experiment."""
    found = pkgutil.iter_modules(_experiments_package().__path__)
    return sorted(m.name for m in found if m.name != WORKLOADS and not m.name.startswith("_"))


def describe_experiment(name: str) -> str:
    """The first line of the experiment's module."""
    module = importlib.import_module(f"experiments.{name}")
    return (inspect.getdoc(module) or "").partition("\n")[0]


def workloads() -> dict[str, Workload]:
    """All workloads by name; the first is the default."""
    module = importlib.import_module(f"experiments.{WORKLOADS}")
    made: tuple[Workload, ...] = module.workloads()
    return {workload.name: workload for workload in made}


def recorder(name: str) -> Callable[[Results, str], None] | None:
    """The function by which an experiment writes its trial from a log; None: its trials are run."""
    if name not in experiment_names():
        return None
    found: Callable[[Results, str], None] | None = getattr(
        importlib.import_module(f"experiments.{name}"), "record", None
    )
    return found


def load_experiment(
    name: str,
    workload: str | None,
    seeds: int | None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Experiment:
    """Make an experiment.

    Args:
        name: of a module of `experiments`.
        workload: its name; None for the experiment's own `WORKLOAD`, which allows no other, or
            for the first.
        seeds: how many; None for the experiment's own number.
        settings: dotted key -> value, laid over the workload and, by kind, over the schedules.

    Raises:
        ValueError: an unknown name (the nearest valid one is named), a refused number of seeds, or
            a setting that `study.spec.expand.apply_settings` refuses.
    """
    require_known(name, experiment_names(), "--experiment")
    module = importlib.import_module(f"experiments.{name}")
    make: Callable[..., Experiment] = module.experiment
    known = workloads()
    if hasattr(module, "WORKLOAD"):
        known = {module.WORKLOAD: known[module.WORKLOAD]}
    chosen = next(iter(known)) if workload is None else workload
    require_known(chosen, known, "--workload")
    # The workload first: the ranges and rungs of an exploration follow from its epochs.
    shared = {key: v for key, v in settings.items() if not key.startswith("schedule.")}
    defaults = as_json(build_config(known[chosen].defaults, shared))
    defaults.pop("seed")
    given = known[chosen].model_copy(update={"defaults": defaults})
    experiment = make(given) if seeds is None else make(given, seeds)
    return apply_settings(experiment, settings)
