"""Registry of model families, looked up by model class or name.

A family is one module here, or anywhere else, whose class is registered:

    @register_family
    class MyFamily(ModelFamily): ...

Modules of this package are found by themselves; packages that are installed beside it name theirs
as entry points of the group `adacomcat.families`.
"""

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import TypeVar

from torch import nn

import adacomcat.models
from adacomcat.checks import require
from adacomcat.config import ModelConfig
from adacomcat.models.base import ModelFamily, ModelView
from adacomcat.models.plain import way_out
from adacomcat.models.tokens import TokenSequence

ENTRY_POINTS = "adacomcat.families"
"""Group of entry points by which an installed package names modules that register families."""

Family = TypeVar("Family", bound=type[ModelFamily])
_REGISTERED: dict[str, ModelFamily] = {}
# The one table of the package that grows: whoever defines a family enters it here once.


def register_family(family: Family) -> Family:
    """Register a family under its name; a decorator of its class.

    Raises:
        ValueError: a name that another class has.
    """
    known = type(_REGISTERED.get(family.name))
    # A module that is loaded anew defines the class anew.
    own = f"{family.__module__}.{family.__qualname__}"
    other = f"{known.__module__}.{known.__qualname__}"
    free = family.name not in _REGISTERED or own == other
    require(free, "register_family", family.name, f"not the name of {other}")
    _REGISTERED[family.name] = family()
    return family


def families() -> tuple[ModelFamily, ...]:
    """All families, in the order in which they are tried."""
    _load_known()
    # By name among equals: whoever was imported first is no reason.
    return tuple(sorted(_REGISTERED.values(), key=lambda family: (family.order, family.name)))


def family_of(model: nn.Module) -> ModelFamily:
    """The family of a model.

    Raises:
        ValueError: no family has its class; says which there are, and the way out of a wrapper.
    """
    for family in families():
        if family.owns(model):
            return family
    kinds = [kind.__name__ for family in families() for kind in family.types]
    kind = type(model)
    near = [base.__name__ for base in kind.__mro__[1:] if base.__name__ in kinds]
    reasons = [f"this subclasses {base}, and may compute something else" for base in near[:1]]
    reasons += [way_out(model)] if way_out(model) else []
    require(False, "model", kind.__name__, "; ".join([", ".join(kinds), *reasons]))
    raise AssertionError


def family_for(name: str, field: str = "model.name") -> ModelFamily:
    """The family that makes models of a name; `field` names the setting in messages.

    Raises:
        ValueError: none does; says what is known of the name.
    """
    for family in families():
        if family.makes(name):
            return family
    known = {family.explain(name): None for family in families()}
    told = [each for each in known if each] or ["no family knows it"]
    names = ", ".join(f.name for f in families())
    require(False, field, name, f"models of {names} ({'; '.join(told)}); see `adacomcat models`")
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
    """Token sequence of a model; see `ModelFamily.tokens`."""
    return family_of(model).tokens(model)


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a model takes; see `ModelFamily.input_shape`."""
    return family_of(model).input_shape(model)


@cache
def _load_known() -> None:
    """Import the modules that register families, of this package and of installed ones."""
    package = adacomcat.models
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
