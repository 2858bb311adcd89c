"""The model families there are: found by a model's class, or by a name.

A family is registered by `register_family`, by whoever wrote it. Those of this package are asked
after all others, in the order of `BUILT_IN`.
"""

import importlib
from typing import TypeVar

from torch import nn

from adacomcat.checks import require
from adacomcat.config import ModelConfig
from adacomcat.models.base import ModelFamily, ModelView
from adacomcat.models.plain import way_out
from adacomcat.models.tokens import TokenSequence

BUILT_IN = ("timm_vit", "timm_metaformer")
"""Modules of this package, each with a family that registers itself."""

Family = TypeVar("Family", bound=type[ModelFamily])
_registered: dict[str, ModelFamily] = {}


def register_family(family: Family) -> Family:
    """Make a family known under its name; a decorator of its class.

    One of the same name is replaced, so that a module can be reloaded.
    """
    _registered[family.name] = family()
    return family


def families() -> tuple[ModelFamily, ...]:
    """All families, in the order in which they are asked."""
    for module in BUILT_IN:
        importlib.import_module(f"adacomcat.models.{module}")
    package = __name__.rpartition(".")[0]
    own = {f"{package}.{module}": place for place, module in enumerate(BUILT_IN)}
    return tuple(sorted(_registered.values(), key=lambda f: own.get(type(f).__module__, -1)))


def family_of(model: nn.Module) -> ModelFamily:
    """The family of a model.

    Raises:
        ValueError: no family has its class; says which there are, and the way out of a wrapper.
    """
    for family in families():
        if type(model) in family.types:
            return family
    kinds = [kind.__name__ for family in families() for kind in family.types]
    kind = type(model)
    near = [base.__name__ for base in kind.__mro__[1:] if base.__name__ in kinds]
    reasons = [f"this subclasses {base}, and may compute something else" for base in near[:1]]
    reasons += [way_out(model)] if way_out(model) else []
    require(False, "model", kind.__name__, "; ".join([", ".join(kinds), *reasons]))
    raise AssertionError


def family_for(name: str, field: str = "model.name") -> ModelFamily:
    """The family that makes models of a name; `field` is where the name stands, for messages.

    Raises:
        ValueError: none does; says what is known of the name.
    """
    for family in families():
        if family.makes(name):
            return family
    known = {family.explain(name): None for family in families()}
    told = [each for each in known if each] or ["no family knows it"]
    names = ", ".join(f.name for f in families())
    require(False, field, name, f"models of {names} ({'; '.join(told)})")
    raise AssertionError


def create_model(
    config: ModelConfig, *, num_classes: int, in_chans: int, image_size: int
) -> nn.Module:
    """Build a model with random weights, for a data set's images and classes.

    Raises:
        ValueError: unknown model or option, or sizes that do not go together.
    """
    family = family_for(config.name)
    return family.create(config, num_classes=num_classes, in_chans=in_chans, image_size=image_size)


def view_of(model: nn.Module) -> ModelView:
    """The parts of a model that can be factorized; see `ModelFamily.view`."""
    return family_of(model).view(model)


def tokens_of(model: nn.Module) -> TokenSequence:
    """Where the tokens of a model run; see `ModelFamily.tokens`."""
    return family_of(model).tokens(model)


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a model takes; see `ModelFamily.input_shape`."""
    return family_of(model).input_shape(model)
