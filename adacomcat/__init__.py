"""Compression of vision transformers, and schedules of its rank searches.

    compressed = adacomcat.compress(model, reduction=0.5)

The public names are loaded when they are first used, so that plans and schedules stay free of
torch.
"""

import importlib
from typing import Any

_HOMES = {
    "compress": "adacomcat.compression",
    "BudgetConfig": "adacomcat.config",
    "Method": "adacomcat.methods.base",
    "LowRankConfig": "adacomcat.methods.lowrank.config",
    "Plan": "adacomcat.plan",
    "Schedule": "adacomcat.schedule",
    "TrialConfig": "adacomcat.config",
    "build_method": "adacomcat.methods.registry",
    "build_schedule": "adacomcat.schedule",
    "build_splits": "adacomcat.data",
    "count_macs": "adacomcat.cost",
    "count_params": "adacomcat.cost",
    "dense_model": "adacomcat.training",
    "load": "adacomcat.io.directory",
    "run_trial": "adacomcat.training",
    "save": "adacomcat.io.directory",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'adacomcat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
