"""Odd values of every setting are accepted or refused in one line that names the setting."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from adacomcat.config.base import config_in
from adacomcat.config.trial import TrialConfig
from adacomcat.methods.registry import config_class, registrations
from adacomcat.overrides import build_config
from adacomcat.schedule import Schedule

ODD: tuple[Any, ...] = (
    *(None, True, False, "", "abc", "\x00", -1, 0, 1, 16, 0.5, -0.5, 1e-300, 1e300),
    *(float("nan"), float("inf"), -float("inf"), 2**31, 2**63, 10**5000, -(10**400)),
    *([], [0], [1, "a"], [[]], [None], [float("nan")], {}, {"a": 1}, {"qk": 16}, {"qk": [0]}),
    *({"a": {"b": []}}, {1: 2}, object(), b"bytes", {None: 1}),
)
NESTED: list[Any] = []
for _ in range(100):
    NESTED = [NESTED]


def settings(cls: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield f"{path}{name}"
        inner = config_in(field.annotation)
        if inner is not None:
            yield from settings(inner, f"{path}{name}.")


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for setting in settings(TrialConfig, ""):
        yield setting, {}
    for name in [*registrations(), "lowrank+diffrate"]:
        for setting in settings(config_class(name), "method."):
            yield setting, {"method": {"name": name}}
    for kind in Schedule.__subclasses__():
        if kind.__module__.startswith("adacomcat."):
            for setting in kind.field_names():
                base = {"epochs": [1]} if kind.kind == "explicit" else {}
                yield f"schedule.{setting}", {"schedule": {"kind": kind.kind, **base}}
    for part in ("data.options", "model.options", "budget.latency"):
        yield f"{part}.entry", {}


@pytest.mark.parametrize(("setting", "base"), list(cases()))
def test_an_odd_value_is_taken_or_refused_by_its_name(setting: str, base: dict[str, Any]) -> None:
    for value in (*ODD, NESTED):
        try:
            config = build_config(base, {setting: value})
        except ValueError as refusal:
            text = str(refusal)
            # One that does not go with another setting may name that one.
            section = setting.partition(".")[0]
            assert text.startswith(section) and "\n" not in text, text
            assert "got" in text and "allowed: " in text, text
        else:
            assert TrialConfig.from_json(config.to_json()) == config
