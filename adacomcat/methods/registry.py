"""Registry of compression methods, keyed by their configuration class.

A method is a folder here, or any module elsewhere, whose configuration class is registered:

    @register("lowrank", method="adacomcat.methods.lowrank.method:LowRank")
    class LowRankConfig(Config): ...

Whatever takes a method's name then takes this one: `build_method`, a trial's configuration, the
command line. Names joined by `+` are methods on one model (`adacomcat.methods.compose`). Nothing
heavy is imported before a method is built.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import Field, create_model

import adacomcat.methods
from adacomcat.checks import require, require_known
from adacomcat.config.base import Config
from adacomcat.methods.config import ComposeConfig

if TYPE_CHECKING:
    from torch import nn

    from adacomcat.methods.base import Method

ENTRY_POINTS = "adacomcat.methods"
"""Group of entry points by which an installed package names modules that register methods."""
DEFAULT = "lowrank"
JOIN = "+"

AnyConfig = TypeVar("AnyConfig", bound=Config)


@dataclass(frozen=True)
class Registration:
    """Entry of a method in the registry, known before its modules are loaded.

    Attributes:
        name: in plans, and as `method.name`.
        config: class of its settings.
        method: `MODULE:CLASS`, a `Method` that is bound by `CLASS(model, config)`.
        spec: module that describes what the method leaves in a model, an
            `adacomcat.methods.specs.Spec`; None for a method that leaves no modules of its own.
        recipe: module with the method's published settings, an `adacomcat.recipes.MethodRecipe`;
            None: a recipe for another method is taken as it is.
        published: module with plans that were published for some models, an
            `adacomcat.recipes.PublishedPlans`; None: there are none.
    """

    name: str
    config: type[Config]
    method: str
    spec: str | None = None
    recipe: str | None = None
    published: str | None = None

    def load_method(self) -> "type[Method]":
        """The method's class."""
        module, _, name = self.method.partition(":")
        return cast("type[Method]", getattr(importlib.import_module(module), name))

    def load_spec(self) -> Any:
        """The module `spec`, or None."""
        return None if self.spec is None else importlib.import_module(self.spec)

    def load_recipe(self) -> Any:
        """The module `recipe`, or None."""
        return None if self.recipe is None else importlib.import_module(self.recipe)

    def load_published(self) -> Any:
        """The module `published`, or None."""
        return None if self.published is None else importlib.import_module(self.published)


_REGISTERED: dict[type[Config], Registration] = {}
# The one table of the package that grows: whoever defines a method enters it here once.


def register(
    name: str,
    *,
    method: str,
    spec: str | None = None,
    recipe: str | None = None,
    published: str | None = None,
) -> Callable[[type[AnyConfig]], type[AnyConfig]]:
    """Register a method by its configuration class; a decorator of that class.

    Args:
        name: of the method, in plans and as `method.name`; without `+` and dots.
        method: `MODULE:CLASS`; see `Registration`.
        spec, recipe, published: modules; see `Registration`.

    Raises:
        ValueError: a name that another class has.
    """

    def enter(config: type[AnyConfig]) -> type[AnyConfig]:
        sound = bool(name) and JOIN not in name and "." not in name
        require(sound, "register", name, f"a name without {JOIN!r} and dots")
        # A module that is loaded anew defines the class anew.
        own = f"{config.__module__}.{config.__qualname__}"
        for known in list(_REGISTERED.values()):
            other = f"{known.config.__module__}.{known.config.__qualname__}"
            require(known.name != name or own == other, "register", name, f"not that of {other}")
            if own == other:
                del _REGISTERED[known.config]
        _REGISTERED[config] = Registration(name, config, method, spec, recipe, published)
        return config

    return enter


def registrations() -> dict[str, Registration]:
    """Name -> every method there is."""
    _load_known()
    return {known.name: known for known in _REGISTERED.values()}


def registrations_of(name: str, field: str = "method.name") -> list[Registration]:
    """The methods that a name is of: one, or those that `+` joins.

    Args:
        name: of one method or of several.
        field: what the user wrote it for, for messages.

    Raises:
        ValueError: an unknown name (the nearest valid one is given), or one twice.
    """
    known, parts = registrations(), name.split(JOIN)
    for part in parts:
        require_known(part, known, field)
    twice = sorted({part for part in parts if parts.count(part) > 1})
    require(not twice, field, name, f"{', '.join(twice)} once")
    return [known[part] for part in parts]


def config_class(name: str) -> type[Config]:
    """The configuration class of a method.

    That of several methods has a field for the configuration of each, by its name, beside those of
    `ComposeConfig`.

    Raises:
        ValueError: as `registrations_of`.
    """
    found = registrations_of(name)
    if len(found) == 1:
        return found[0].config
    parts: Any = {
        part.name: (part.config, Field(default_factory=part.config, validate_default=True))
        for part in found
    }
    return create_model(name, __base__=ComposeConfig, **parts)


def method_config(settings: Mapping[str, Any]) -> Config:
    """Settings of a method, checked: an instance of its configuration class.

    Args:
        settings: `name`, and the method's own settings; of several methods those of each under its
            name, and how they are composed.

    Raises:
        ValueError: an unknown method or setting (the nearest valid one is named), or a value that
            is refused.
    """
    own = dict(settings)
    return config_class(str(own.pop("name", DEFAULT))).from_json(own, "method")


def build_method(model: "nn.Module", config: Mapping[str, Any]) -> "Method":
    """Bind the method that `config["name"]` names to a dense model.

    Args:
        model: a dense model; nothing of it changes before `prepare_` or `commit_`.
        config: see `method_config`.

    Raises:
        ValueError: an unknown method or setting (the nearest valid one is named), or a model that
            the method does not support (what it has is named).
    """
    checked = method_config(config)
    found = registrations_of(str(config.get("name", DEFAULT)))
    if len(found) == 1:
        return _bind(found[0], model, checked)
    assert isinstance(checked, ComposeConfig)
    from adacomcat.methods.compose import compose

    return compose([_bind(part, model, getattr(checked, part.name)) for part in found], checked)


def _bind(registration: Registration, model: "nn.Module", config: Any) -> "Method":
    # Typed where it is defined: the base class does not say what a method is made of.
    kind: Any = registration.load_method()
    return cast("Method", kind(model, config))


@cache
def _load_known() -> None:
    """Import the modules that register methods, of this package and of installed ones."""
    package = adacomcat.methods
    for folder in pkgutil.iter_modules(package.__path__):
        if folder.ispkg:
            importlib.import_module(f"{package.__name__}.{folder.name}.config")
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
