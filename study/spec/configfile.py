"""Studies as editable files: `study.yaml`, which `--config` takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adacomcat.checks import Refusal, require_known
from adacomcat.config.yaml import read_yaml, write_yaml
from adacomcat.files import atomic_write_bytes
from adacomcat.io.run import SCHEMA_VERSION, check_version
from adacomcat.overrides import build_config
from study.spec.expand import apply_settings
from study.spec.schema import Experiment

HEAD = """\
# The experiment {experiment} on the workload {workload}, with every setting spelled out.
# To vary it, edit a copy of this file and run that:
#     python study/run.py --config COPY --results NEW
# In a results directory this file says what the results are of: it is not edited there.
"""


def to_yaml(experiment: Experiment) -> str:
    """The text of a `study.yaml`; `read_config` makes the same trials of it."""
    values = apply_settings(experiment, {}).to_json()
    content = {"schema_version": SCHEMA_VERSION, "experiment": values.pop("name"), **values}
    head = HEAD.format(experiment=experiment.name, workload=experiment.workload.name)
    return head + write_yaml(content)


def write_config(experiment: Experiment, path: Path) -> None:
    """Write a `study.yaml`, atomically."""
    atomic_write_bytes(path, to_yaml(experiment).encode())


def read_config(path: Path) -> Experiment:
    """The experiment in a file; missing settings have their defaults.

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
    values = {"name" if key == "experiment" else key: value for key, value in content.items()}
    del values["schema_version"]
    try:
        experiment = Experiment.from_json(values)
    except Refusal as refusal:
        field = "experiment" if refusal.field == "name" else refusal.field
        raise Refusal(field, refusal.reason) from None
    _check_settings(experiment)
    return experiment


def _check_settings(experiment: Experiment) -> None:
    """Build the settings of every arm, so that a refusal names the place in the file."""
    layers = {f"arms.{arm.name}.overrides": arm.overrides for arm in experiment.arms}
    if experiment.exploration is not None:
        layers["exploration.overrides"] = experiment.exploration.overrides
    defaults = experiment.workload.defaults
    for where, layer in {"workload.defaults": {}, **layers}.items():
        try:
            build_config(defaults, layer)
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from None
