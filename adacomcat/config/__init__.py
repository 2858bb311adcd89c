"""Typed and validated configurations.

A `TrialConfig` is the whole of it: two trials with equal configurations on equal versions of the
software give the same trace. Settings that belong to one method or one kind of schedule are plain
mappings here (`method`, `schedule`), checked by the method or schedule that they name, so that a
new method does not edit this package.
"""

from adacomcat.config.base import Config
from adacomcat.config.budget import BudgetConfig
from adacomcat.config.data import DataConfig, leakage_note
from adacomcat.config.model import ModelConfig
from adacomcat.config.phase import DistillConfig, PhaseConfig
from adacomcat.config.runtime import RuntimeConfig
from adacomcat.config.search import SearchConfig
from adacomcat.config.trial import DenseConfig, TrialConfig

__all__ = [
    "BudgetConfig",
    "Config",
    "DataConfig",
    "DenseConfig",
    "DistillConfig",
    "ModelConfig",
    "PhaseConfig",
    "RuntimeConfig",
    "SearchConfig",
    "TrialConfig",
    "leakage_note",
]
