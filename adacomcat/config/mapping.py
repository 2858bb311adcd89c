"""Configuration classes from nested mappings, as read from JSON or YAML."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from adacomcat.checks import require_known

Config = TypeVar("Config")


def from_mapping(cls: type[Config], values: Mapping[str, Any], path: str = "") -> Config:
    """Build a configuration class from nested mappings, as read from JSON or YAML.

    Args:
        cls: one of the dataclasses of this package, or a method's own.
        values: field -> value; a field that is itself a configuration takes a mapping.
        path: dotted name of what is built, for messages.

    Raises:
        ValueError: an unknown key (the nearest valid one is named) or a refused value.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        require_known(key, names, where)
        nested = hints[key]
        if dataclasses.is_dataclass(nested) and isinstance(value, Mapping):
            value = from_mapping(nested, value, where)  # type: ignore[arg-type]
        arguments[key] = value
    return cls(**arguments)
