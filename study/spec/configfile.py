"""Studies as editable files: `study.yaml`, which `--config` takes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from adacomcat.checks import require_known
from adacomcat.config.yaml import read_yaml, write_yaml
from adacomcat.files import atomic_write_bytes
from adacomcat.io.run import SCHEMA_VERSION, check_version
from adacomcat.overrides import build_config
from study.spec.expand import apply_settings
from study.spec.exploration import Record
from study.spec.schema import Experiment

HEAD = """\
# The experiment {experiment} on the workload {workload}, with every setting spelled out.
# To vary it, edit a copy of this file and run that:
#     python study/run.py --config COPY --results NEW
# In a results directory this file says what the results are of: it is not edited there.
"""


def to_yaml(experiment: Experiment) -> str:
    """The text of a `study.yaml`; `read_config` makes the same trials of it."""
    values = apply_settings(experiment, {}).model_dump(mode="json")
    content = {"schema_version": SCHEMA_VERSION, "experiment": values.pop("name"), **values}
    head = HEAD.format(experiment=experiment.name, workload=experiment.workload.name)
    return head + write_yaml(content)


def write_config(experiment: Experiment, path: Path) -> None:
    """Write a `study.yaml`, atomically."""
    atomic_write_bytes(path, to_yaml(experiment).encode())


def read_config(path: Path) -> Experiment:
    """The experiment that a file describes; what it leaves out has its default.

    Raises:
        ValueError: a file that cannot be read, is empty or no YAML, has a newer schema, an unknown
            key or a value that is refused; in one line with the path and the dotted field.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"--config: cannot read {path} ({error.strerror})") from None
    try:
        return _experiment(read_yaml(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _experiment(content: Any) -> Experiment:
    fields = [name for name in Experiment.model_fields if name != "name"]
    keys = ["schema_version", "experiment", *fields]
    if not isinstance(content, Mapping):
        got = "nothing" if content is None else type(content).__name__
        raise ValueError(f"got {got}, allowed: a mapping with {', '.join(keys)}")
    check_version(content, "schema_version")
    for key in content:
        require_known(str(key), keys, str(key))
    values = {"name" if k == "experiment" else k: v for k, v in content.items()}
    del values["schema_version"]
    _refuse_unknown(Experiment, values, "")
    try:
        # As JSON, where a list serves as a tuple but text is never taken for a number.
        text = json.dumps(values, allow_nan=False)
        experiment = Experiment.model_validate_json(text, strict=True)
    except TypeError as error:
        raise ValueError(f"got what JSON cannot hold ({error}), allowed: plain data") from None
    except ValidationError as error:
        raise ValueError(_first_of(error, values)) from None
    _check_settings(experiment)
    return experiment


def _refuse_unknown(model: type[Record], values: Mapping[str, Any], path: str) -> None:
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        require_known(str(key), model.model_fields, where)
        inner = _record_in(model.model_fields[key].annotation)
        entries = value if isinstance(value, list) else [value]
        for number, entry in enumerate(entries):
            if inner is not None and isinstance(entry, Mapping):
                place = f"{where}.{_name(entry, number)}" if entries is value else where
                _refuse_unknown(inner, entry, place)


def _record_in(annotation: Any) -> type[Record] | None:
    """The kind of record that an annotation speaks of: `Arm` of `tuple[Arm, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation
    found = (_record_in(argument) for argument in get_args(annotation))
    return next((record for record in found if record is not None), None)


def _name(entry: Any, number: int) -> str:
    """Name of a list entry in a message: its own name if it has one."""
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else str(number)


def _first_of(error: ValidationError, values: Any) -> str:
    """The first refusal of pydantic, in the words of all others."""
    first = error.errors(include_url=False)[0]
    ours = first.get("ctx", {}).get("error")
    if isinstance(ours, ValueError):
        # A part of an exploration knows its own name, not where it stands.
        return f"exploration.{ours}" if first["loc"][:1] == ("exploration",) else str(ours)
    parts = []
    for step in first["loc"]:
        # Steps into what is not there, or which are no keys (`[key]`), end the walk.
        inside = isinstance(values, Mapping | list) and (isinstance(step, int) or step in values)
        values = values[step] if inside else None
        parts.append(_name(values, step) if isinstance(step, int) else step)
    path = ".".join(part for part in parts if part != "[key]")
    got = "nothing" if first["type"] == "missing" else repr(first["input"])
    allowed = {
        "missing": "a value",
        "string_pattern_mismatch": "lower-case letters, digits and _, a letter first",
        "too_short": "one or more",
    }.get(first["type"], first["msg"].removeprefix("Input should be "))
    return f"{'experiment' if path == 'name' else path}: got {got}, allowed: {allowed}"


def _check_settings(experiment: Experiment) -> None:
    """Build what every arm sets, so that a refusal names the place in the file."""
    layers = {f"arms.{arm.name}.overrides": arm.overrides for arm in experiment.arms}
    if experiment.exploration is not None:
        layers["exploration.overrides"] = experiment.exploration.overrides
    defaults = experiment.workload.defaults
    for where, layer in {"workload.defaults": {}, **layers}.items():
        try:
            build_config(defaults, layer)
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from None
