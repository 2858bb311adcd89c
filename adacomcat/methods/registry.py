"""The compression methods there are, found by name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from adacomcat.checks import require_known
from adacomcat.methods.base import CompressionMethod

Factory = Callable[[nn.Module, Mapping[str, Any]], CompressionMethod]


def _lowrank(model: nn.Module, settings: Mapping[str, Any]) -> CompressionMethod:
    from adacomcat.config import from_mapping
    from adacomcat.methods.lowrank.config import LowRankConfig
    from adacomcat.methods.lowrank.method import LowRank

    return LowRank(model, from_mapping(LowRankConfig, settings, "method"))


def _diffrate(model: nn.Module, settings: Mapping[str, Any]) -> CompressionMethod:
    from adacomcat.config import from_mapping
    from adacomcat.methods.tokens.config import DiffRateConfig
    from adacomcat.methods.tokens.method import DiffRate

    return DiffRate(model, from_mapping(DiffRateConfig, settings, "method"))


def _combined(model: nn.Module, settings: Mapping[str, Any]) -> CompressionMethod:
    from adacomcat.config import from_mapping
    from adacomcat.methods.combined.config import CombinedConfig
    from adacomcat.methods.combined.method import Combined

    return Combined(model, from_mapping(CombinedConfig, settings, "method"))


def build_method(model: nn.Module, config: Mapping[str, Any]) -> CompressionMethod:
    """Bind the method that `config["name"]` names to a dense model.

    Args:
        model: a dense model; nothing of it changes before `prepare_` or `commit_`.
        config: `name`, and the method's own settings.

    Raises:
        ValueError: an unknown method or setting (the nearest valid one is named), or a model that
            the method does not support (what it has is named).
    """
    factories: dict[str, Factory] = {
        "lowrank": _lowrank,
        "diffrate": _diffrate,
        "lowrank+diffrate": _combined,
    }
    settings = dict(config)
    name = settings.pop("name", "lowrank")
    require_known(str(name), factories, "method.name")
    return factories[name](model, settings)
