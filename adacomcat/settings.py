"""Layers of settings (workload, arm, `--set`) folded into one validated `TrialConfig`."""

import dataclasses
import json
import re
import typing
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from adacomcat.checks import require, require_known
from adacomcat.config import TrialConfig, from_mapping
from adacomcat.methods.lowrank.timetable import read_timetable


class _Loader(yaml.SafeLoader):
    """YAML whose scalars mean what a command line means by them.

    Differs from PyYAML (YAML 1.1): `1e-3` is a number, `None` is null, `no`, `off` and `2024-01-01`
    are text, and a key given twice is an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_latency(loader: _Loader, node: yaml.Node) -> dict[str, Any]:
    """`!latency FILE`: the table in a file of `adacomcat latency`, in place of its name.

    So a configuration holds what was measured, whatever becomes of the file.
    """
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(
            None, None, "!latency wants the name of a file", node.start_mark
        )
    return read_timetable(Path(node.value))


_Loader.add_constructor("!latency", _read_latency)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back; without references to what occurs twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(
        self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style)
        # A list of numbers reads best in one line, a list of mappings below each other.
        node.flow_style = all(isinstance(entry, yaml.ScalarNode) for entry in node.value)
        return node


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|false|False", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("null", r"null|Null|None|~|", [*"nN~", ""]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
        )


def read_yaml(text: str | bytes) -> Any:
    """Read YAML as settings are written.

    Raises:
        ValueError: no YAML, in one line; `line 3: ...` where the text has lines.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        mark = getattr(error, "problem_mark", None)
        if mark is not None and len(text.splitlines()) > 1:
            problem = f"line {mark.line + 1}: {problem}"
        raise ValueError(problem) from None


def write_yaml(values: Any) -> str:
    """Plain data as YAML that `read_yaml` reads back: a line an entry, lists of scalars in one."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=96)
    return text


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Read the `a.b=c` of the command line; values are YAML.

    Returns:
        dotted key -> value, in the order given.

    Raises:
        ValueError: no `=`, an empty key, a value that is no YAML, or a key given twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        shape = bool(equals) and re.fullmatch(r"[\w-]+(\.[\w-]+)*", key) is not None
        require(shape, "--set", text, "a.b=c, for instance search_phase.epochs=5")
        require(key not in settings, f"--set {key}", text, "each key once")
        try:
            settings[key] = read_yaml(value)
        except ValueError as error:
            raise ValueError(f"{key}: got {value!r}, allowed: a YAML value ({error})") from None
    return settings


def build_config(*layers: Mapping[str, Any]) -> TrialConfig:
    """Fold layers of settings over the defaults of `TrialConfig`; a later layer wins.

    Args:
        layers: mappings whose keys may be dotted and whose values may be nested mappings. A mapping
            given for a free mapping of the configuration (`method`, `schedule`, `data.options`,
            `model.options`) replaces it, since its keys belong together; a dotted key
            (`method.space`) sets that one entry.

    Raises:
        ValueError: unknown key (the nearest valid one is named), a value of the wrong type, or one
            that the configuration refuses; always with the dotted field.
    """
    values = TrialConfig().to_json()
    for layer in layers:
        _apply(values, TrialConfig, layer, "")
    config = _construct(TrialConfig, values, "")
    assert isinstance(config, TrialConfig)
    return config


def dotted_keys(values: Mapping[str, Any]) -> list[str]:
    """The settings a layer makes, as dotted keys of configuration fields and of free mappings.

    A replaced free mapping appears by its own name (`schedule`), not by its entries.
    """
    return list(_dotted(TrialConfig, values, ""))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """What differs between two JSON configurations, as `key: 30 -> 5`, in the order of keys.

    2 and 2.0 differ: the id of a trial is the hash of its JSON.
    """
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        where = f"{path}.{key}" if path else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, where)
        elif json.dumps(before) != json.dumps(after):
            found.append(f"{where}: {_short(before)} -> {_short(after)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(cls: type, values: Mapping[str, Any], path: str) -> Iterable[str]:
    for key, value in values.items():
        head, _, rest = key.partition(".")
        where = f"{path}.{head}" if path else head
        hint = _field_types(cls).get(head)
        if dataclasses.is_dataclass(hint) and (rest or isinstance(value, Mapping)):
            assert isinstance(hint, type)
            yield from _dotted(hint, {rest: value} if rest else value, where)
        else:
            yield f"{where}.{rest}" if rest else where


def _apply(target: dict[str, Any], cls: type, values: Mapping[str, Any], path: str) -> None:
    types = _field_types(cls)
    for key, value in values.items():
        head, _, rest = key.partition(".")
        where = f"{path}.{head}" if path else head
        require_known(head, types, where)
        hint = types[head]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            nested = {rest: value} if rest else value
            allowed = f"settings of {where} by name ({', '.join(_field_types(hint))})"
            require(isinstance(nested, Mapping), where, nested, allowed)
            _apply(target[head], hint, nested, where)
        elif rest:
            require(_is_mapping(hint), f"{where}.{rest}", value, f"only {where} itself")
            target[head] = dict(target[head])
            _set_entry(target[head], rest, _checked(Any, value, f"{where}.{rest}"), where)
        else:
            target[head] = _checked(hint, value, where)


def _set_entry(target: dict[str, Any], key: str, value: Any, path: str) -> None:
    """Set `a.b` in nested free mappings; missing levels are made."""
    head, _, rest = key.partition(".")
    where = f"{path}.{head}"
    if not rest:
        target[head] = value
        return
    inner = target.get(head)
    require(inner is None or isinstance(inner, Mapping), where, inner, f"a mapping, to set {rest}")
    target[head] = dict(inner or {})
    _set_entry(target[head], rest, value, where)


def _construct(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """Build a configuration bottom up, so that a refusal can be given its full dotted name."""
    arguments = dict(values)
    for name, hint in _field_types(cls).items():
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            where = f"{path}.{name}" if path else name
            arguments[name] = _construct(hint, values[name], where)
    try:
        return from_mapping(cls, arguments, path)
    except ValueError as error:
        # A part knows itself by its kind (`phase.epochs`), not by its place (`search_phase`).
        _, dot, rest = str(error).partition(".")
        raise ValueError(f"{path}.{rest}" if path and dot else str(error)) from None


def _checked(hint: Any, value: Any, where: str) -> Any:
    """The value as JSON gives it back, after a check of its type; `1` is accepted for a float."""
    try:
        text = json.dumps(value, allow_nan=False)
        return json.loads(_adapter(hint).dump_json(_adapter(hint).validate_json(text, strict=True)))
    except (ValidationError, TypeError, ValueError):
        raise ValueError(f"{where}: got {value!r}, allowed: {describe_type(hint)}") from None


def describe_type(hint: Any) -> str:
    """A type in the words of an error message: `int | None` -> `a whole number or null`."""
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "a finite number, text, true, false, null, or a list or mapping",
    }
    if hint in words:
        return words[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(str(a) for a in arguments)
    if origin is tuple:
        return f"a list, each {describe_type(arguments[0])}"
    if _is_mapping(hint):
        return "a mapping of settings"
    return " or ".join(describe_type(a) for a in arguments)


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, typing.cast(type, Mapping))


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


@cache
def _field_types(cls: type) -> Mapping[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}
