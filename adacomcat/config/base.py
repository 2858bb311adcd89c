"""Base class of all configurations, and their one-line errors."""

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from adacomcat.checks import Refusal, require, require_known

LARGEST = 2**63 - 1
"""Bound of the absolute value of whole numbers, for PyTorch and all readers of JSON."""
DEEPEST = 20
"""Levels of lists and mappings in a setting."""
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "string_type": "text",
        "tuple_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping",
        "too_short": "one or more",
        "greater_than": "above {gt:.12g}",
        "greater_than_equal": "{ge:.12g} or more",
        "less_than": "below {lt:.12g}",
        "less_than_equal": "at most {le:.12g}",
    }
)
"""Error type of pydantic -> allowed values in words, where pydantic's own are longer."""


class Config(BaseModel):
    """Frozen, validated data; unknown fields and wrong values are refused in one line.

    A configuration built in Python takes what pydantic converts (`"5"` for 5); one read by
    `from_json` does not, since there a number in quotes is a mistake.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    place: ClassVar[str] = ""
    """Dotted name of a configuration of this class that stands alone; `{name}` is replaced by the
    value of that field."""

    def __init__(self, **values: Any) -> None:
        """
        Raises:
            Refusal: a field that is unknown or missing, or a refused value.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            place = self.place.format(name=values.get("name"))
            raise refusal(error, type(self), values).below(place) from None

    # Without this mark pydantic would call `__init__` for nested configurations too.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_json(cls, values: Any, path: str = "") -> Self:
        """Read a configuration from JSON-able data.

        Args:
            values: field -> value; what is left out has its default.
            path: dotted name of the configuration, for messages.

        Raises:
            Refusal: data that JSON cannot hold, an unknown field (the nearest valid one is named)
                or a refused value.
        """
        check_json(values, path)
        try:
            return cls.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise refusal(error, cls, values).below(path) from None

    @classmethod
    def field_names(cls) -> list[str]:
        """The names of the fields in data and in messages."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON-able data; `from_json` reads it back."""
        return self.model_dump(mode="json", by_alias=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, validated like a new one.

        Raises:
            Refusal: as the constructor does.
        """
        values = [getattr(self, name) for name in type(self).model_fields]
        fields = dict(zip(self.field_names(), values, strict=True))
        return type(self)(**(fields | changes))


def check_json(value: Any, path: str, depth: int = 0) -> None:
    """Raise unless JSON can hold a value, and every reader of JSON gives it back.

    Raises:
        Refusal: an infinite or undefined number, a whole number of more than 64 bits, a key that
            is no text, too deep a nesting, or an object that is no data.
    """
    if isinstance(value, Mapping | list | tuple):
        require(depth < DEEPEST, path, value, f"at most {DEEPEST} levels of lists and mappings")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, entry in items:
            inner = f"{path}.{key}" if path else str(key)
            require(isinstance(key, str | int), inner, key, "text as a key")
            check_json(entry, inner, depth + 1)
    elif isinstance(value, float):
        require(math.isfinite(value), path, value, "a finite number")
    elif isinstance(value, int):
        # Python refuses to print the largest ones.
        bits = f"a whole number of {value.bit_length()} bits"
        require(abs(value) <= LARGEST, path, bits, f"at most {LARGEST}, up or down")
    else:
        plain = value is None or isinstance(value, str)
        require(plain, path, value, "a number, text, true, false, null, a list or a mapping")


def refusal(error: ValidationError, cls: type[BaseModel], values: Any) -> Refusal:
    """The first problem that pydantic found, in one line.

    Args:
        error: what it raised for `values`.
        cls: what was to be built.
        values: field -> value, as given.
    """
    problems = error.errors(include_url=False)
    # A misspelled field is also a missing one: the misspelling is the cause.
    misspelled = (problem for problem in problems if problem["type"] == "extra_forbidden")
    first = next(misspelled, problems[0])
    ours = first.get("ctx", {}).get("error")
    path = _path(first["loc"], values)
    where = ".".join(_names(path, values))
    if isinstance(ours, Refusal):
        return ours.below(where)
    fields, null = _fields(cls, path)
    if first["type"] == "extra_forbidden":
        try:
            require_known(str(path[-1]), fields, where)
        except Refusal as unknown:
            return unknown
    if first["type"] == "missing":
        path = first["loc"]
        where = ".".join([*_names(path[:-1], values), str(path[-1])])
        return Refusal(where, "got nothing, allowed: a value")
    # Each branch of a union has a problem of its own.
    here = [problem for problem in problems if _path(problem["loc"], values) == path]
    words = [
        WORDS[problem["type"]].format(**problem.get("ctx", {}))
        if problem["type"] in WORDS
        else problem["msg"].removeprefix("Input should be ")
        for problem in here
    ]
    allowed = " or ".join(dict.fromkeys([*words, *(["null"] if null else [])]))
    return Refusal(where, f"got {first['input']!r}, allowed: {allowed}")


def _path(loc: Sequence[int | str], values: Any) -> tuple[int | str, ...]:
    """The steps of a location that lead into data; others name branches of a union."""
    path: list[int | str] = []
    for step in loc:
        listed = isinstance(values, list | tuple) and isinstance(step, int) and step < len(values)
        if not listed and not (isinstance(values, Mapping) and step in values):
            break
        values = values[step]
        path.append(step)
    return tuple(path)


def _names(path: Sequence[int | str], values: Any) -> list[str]:
    """The steps of a path as a user knows them: an entry of a list by its name, if it has one."""
    names = []
    for step in path:
        values = values[step]
        name = values.get("name") if isinstance(step, int) and isinstance(values, Mapping) else None
        names.append(name if isinstance(name, str) else str(step))
    return names


def _fields(
    cls: type[BaseModel], path: Sequence[int | str]
) -> tuple[Mapping[str, FieldInfo], bool]:
    """The fields beside the last step of a path, and whether that step's own field may be null."""
    found: type[BaseModel] | None = cls
    fields: Mapping[str, FieldInfo] = {}
    null = False
    for step in path:
        null = False
        if isinstance(step, str) and found is not None:
            fields = {field.alias or name: field for name, field in found.model_fields.items()}
            annotation = fields[step].annotation if step in fields else None
            found, null = config_in(annotation), type(None) in get_args(annotation)
    return fields, null


def config_in(annotation: Any) -> type[BaseModel] | None:
    """The class of configuration in an annotation: `Arm` of `tuple[Arm, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (config_in(argument) for argument in get_args(annotation))
    return next((cls for cls in found if cls is not None), None)
