"""Layers of settings (recipe, arm, `--set`) folded into one validated `TrialConfig`."""

import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from adacomcat.checks import Refusal, require
from adacomcat.config.base import config_in
from adacomcat.config.trial import TrialConfig
from adacomcat.config.yaml import read_yaml
from adacomcat.methods.registry import method_config
from adacomcat.schedule import build_schedule

RESOLVED = "resolved"
"""`schedule.kind` of an arm of a study until its schedule is made from other trials."""
TAGS: Mapping[str, str] = MappingProxyType({"method": "name", "schedule": "kind"})
"""Free mapping -> the entry that selects its other settings."""
KEY = re.compile(r"[\w-]+(\.[\w-]+)*")


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
        shape = bool(equals) and KEY.fullmatch(key) is not None
        require(shape, "--set", text, "a.b=c, for instance search_phase.epochs=5")
        require(key not in settings, f"--set {key}", text, "each key once")
        try:
            settings[key] = read_yaml(value)
        except ValueError as error:
            raise Refusal(key, f"got {value!r}, allowed: a YAML value ({error})") from None
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
            that the configuration, its method or its schedule refuses; always with the dotted
            field.
    """
    values = TrialConfig().to_json()
    for layer in layers:
        # First what a mapping is of: another method or kind leaves nothing of the settings before.
        for key in (f"{part}.{tag}" for part, tag in TAGS.items()):
            part, _, tag = key.partition(".")
            if key in layer and layer[key] != values[part].get(tag):
                values[part] = {tag: layer[key]}
        _fold(values, layer, TrialConfig)
    config = TrialConfig.from_json(values)
    method_config(config.method)
    if config.schedule.get("kind") != RESOLVED:
        build_schedule(config.schedule)
    return config


def dotted_keys(values: Mapping[str, Any]) -> list[str]:
    """The settings a layer makes, as dotted keys of configuration fields and of free mappings.

    A replaced free mapping appears by its own name (`schedule`), not by its entries.
    """
    return list(_dotted(values, TrialConfig, ""))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """Differences between two JSON configurations, as `key: 30 -> 5`, in the order of keys.

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


def _fold(target: dict[str, Any], layer: Mapping[str, Any], cls: type[BaseModel] | None) -> None:
    """Lay a layer over JSON data of a class of configurations (None: of a free mapping)."""
    for key, value in layer.items():
        head, inner, nested = _step(str(key), value, cls)
        if nested is None:
            target[head] = value
            continue
        # What is no mapping gives way: the configuration then refuses what took its place.
        below = target.get(head)
        target[head] = dict(below) if isinstance(below, Mapping) else {}
        _fold(target[head], nested, inner)


def _dotted(layer: Mapping[str, Any], cls: type[BaseModel] | None, path: str) -> Iterable[str]:
    for key, value in layer.items():
        head, inner, nested = _step(str(key), value, cls)
        if nested is None or inner is None:
            yield f"{path}{key}"
        else:
            yield from _dotted(nested, inner, f"{path}{head}.")


def _step(
    key: str, value: Any, cls: type[BaseModel] | None
) -> tuple[str, type[BaseModel] | None, Mapping[str, Any] | None]:
    """The first part of a dotted key, its configuration class, and the settings within it."""
    head, _, rest = key.partition(".")
    field = cls.model_fields.get(head) if cls is not None else None
    inner = config_in(field.annotation) if field is not None else None
    if rest:
        return head, inner, {rest: value}
    return head, inner, value if inner is not None and isinstance(value, Mapping) else None
