"""Model directories: portable, and loaded without the code that trained the model.

    model.safetensors    the weights
    plan.json            the decision of every searched site
    config.json          what the model is: timm's keys of a hub model (architecture, num_classes,
                         num_features, global_pool, model_args, pretrained_cfg), and `adacomcat`:
                         format version, the modules that a method put in, sizes of parts that
                         the arguments do not make (of pruned models), costs, the hash of the
                         weights

`config.json` is written last and names the weights by their hash: after a kill in the middle the
directory is refused, never half read. Nothing in it can run code. timm opens the directory of a
model that is dense throughout (`timm.create_model("local-dir:DIR", pretrained=True)`); of one that
only drops tokens it gives the dense model with these weights.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from adacomcat import parallel
from adacomcat.checks import require
from adacomcat.cost import count_macs, count_params
from adacomcat.data import Splits
from adacomcat.files import atomic_write_bytes, atomic_write_json
from adacomcat.io.hub import HUB, fetch
from adacomcat.methods.specs import check_plan, plan_of, shape_, shapes_of
from adacomcat.models.registry import family_for, family_of, input_shape
from adacomcat.models.tensors import check_tensors
from adacomcat.plan import Plan
from adacomcat.training import Trial
from adacomcat.training.checkpoint import CheckpointError

WEIGHTS, PLAN, CONFIG = "model.safetensors", "plan.json", "config.json"
VERSION = 1
IMAGE_KEYS = (
    "input_size",
    "fixed_input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
    "num_classes",
    "label_names",
    "first_conv",
    "classifier",
    "license",
    "tag",
)
"""Keys of timm's `pretrained_cfg` that describe a model's input and output."""


def save(
    model: nn.Module,
    directory: Path | str,
    *,
    plan: Plan | None = None,
    model_args: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model, dense or committed, as a directory that `load` opens.

    What stands in `model.pretrained_cfg` of images (mean, std, crop_pct, interpolation) goes along.

    Args:
        model: dense, or committed to a plan.
        directory: made if missing; other files in it stay, an earlier model is replaced.
        plan: what the model was committed to; None: what it shows, at all its sites.
        model_args: arguments with which `timm.create_model` made it; a model out of a workload
            knows its own.
        extra: anything JSON-able, kept in `config.json`.

    Raises:
        ValueError: a model that timm's arguments do not make anew (what differs is named), a plan
            that is not the model's, or a directory with somebody else's `config.json`.
    """
    directory = Path(directory)
    if (directory / CONFIG).exists():
        read_config(directory, whole=False)
    if plan is None:
        plan = plan_of(model)
    check_plan(model, plan)
    config = _config(model, model_args, extra)
    _verify(model, config)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    # "pt" is what timm and the hub expect of files from PyTorch.
    data = safetensors.torch.save(state, {"format": "pt"})
    config["adacomcat"]["weights_sha256"] = hashlib.sha256(data).hexdigest()
    atomic_write_bytes(directory / WEIGHTS, data)
    atomic_write_json(directory / PLAN, plan.to_json())
    atomic_write_json(directory / CONFIG, config)


def check_saveable(model: nn.Module) -> None:
    """Refuse a model that `save` would refuse: before its training, not after.

    Raises:
        ValueError: as `save`.
    """
    _verify(model, _config(model, None, None))


def save_result(trial: Trial, directory: Path) -> None:
    """Write the model of a trial with its preprocessing, on the first worker.

    Args:
        trial: that has run.
        directory: of its run.

    Raises:
        ValueError: as `save`.
    """
    if parallel.rank() == 0:
        describe_images(trial.result, trial.splits)
        save(trial.result, directory, plan=trial.method.plan)
    parallel.wait_for_all()


def describe_images(model: nn.Module, splits: Splits) -> None:
    """Note the preprocessing and the names of labels on a model, for `save`."""
    described: Any = model
    described.pretrained_cfg = {
        **family_of(model).preprocessing(model),
        **splits.train.spec.to_pretrained_cfg(),
        "label_names": splits.classes,
    }


def load(directory: Path | str) -> nn.Module:
    """The model that `save` wrote, on the CPU, in evaluation mode.

    Args:
        directory: a folder, or one of the hub: `hf-hub:USER/REPOSITORY`, with `@REVISION` or
            without.

    Raises:
        CheckpointError: a file is missing, damaged, of a newer version or not ours.
        ValueError: a model that this version of timm does not make, or that the hub does not give.
    """
    if str(directory).startswith(HUB):
        directory = fetch(str(directory), (WEIGHTS, PLAN, CONFIG))
    directory = Path(directory)
    config = read_config(directory)
    path = directory / WEIGHTS
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != config["adacomcat"]["weights_sha256"]:
        raise CheckpointError(path, f"not the weights that {CONFIG} names: truncated or replaced")
    state = safetensors.torch.load(data)
    model = _skeleton(config)
    check_tensors(state, model.state_dict(), str(path))
    model.load_state_dict(state, assign=True)
    model.model_args = config["model_args"]
    assert isinstance(model, nn.Module)
    return model.eval()


def read_config(directory: Path | str, *, whole: bool = True) -> dict[str, Any]:
    """Content of a directory's `config.json`.

    Args:
        directory: that `save` wrote.
        whole: whether the weights that it names have to be there.

    Raises:
        CheckpointError: the file is missing, damaged, of a newer version or not ours.
    """
    path = Path(directory) / CONFIG
    data = _read(path)
    try:
        config = json.loads(data)
    except ValueError as error:
        raise CheckpointError(path, "damaged: no JSON") from error
    own = config.get("adacomcat") if isinstance(config, dict) else None
    if not isinstance(own, dict):
        raise CheckpointError(path, "not of a model that adacomcat saved")
    version = own.get("version")
    if type(version) is not int or version > VERSION:
        raise CheckpointError(path, f"version {version}; this adacomcat reads up to {VERSION}")
    if whole and not (path.parent / WEIGHTS).is_file():
        raise CheckpointError(path.parent / WEIGHTS, "missing")
    return config


def read_plan(directory: Path | str) -> Plan:
    """The plan in a directory that `save` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(directory) / PLAN
    data = _read(path)
    try:
        return Plan.from_json(json.loads(data))
    except ValueError as error:
        raise CheckpointError(path, f"no plan, or a damaged one: {error}") from error


def _config(
    model: Any, model_args: Mapping[str, Any] | None, extra: Mapping[str, Any] | None
) -> dict[str, Any]:
    family = family_of(model)
    architecture, arguments = family.creation(model)
    if model_args is not None:
        arguments |= model_args
    for key, value in arguments.items():
        require(_is_json(value), f"model_args.{key}", value, "what JSON can hold")
    known = {k: v for k, v in family.preprocessing(model).items() if k in IMAGE_KEYS}
    if len(known.get("label_names") or ()) != model.num_classes:
        known.pop("label_names", None)  # of another classifier, before `reset_classifier`
    shape = family.input_shape(model)
    with torch.device("meta"):
        made = family.sizes(family.build(architecture, _tupled(arguments)))
    # What structural pruning left, which no argument makes.
    sizes = {k: v for k, v in family.sizes(model).items() if k in made and made[k] != v}
    return {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": family.pooling(model),
        "model_args": arguments,
        "pretrained_cfg": {**known, "input_size": shape, "num_classes": model.num_classes},
        "adacomcat": {
            "version": VERSION,
            "modules": shapes_of(model),
            "sizes": sizes,
            "params": count_params(model),
            "macs": count_macs(model, shape),
            "extra": dict(extra or {}),
        },
    }


def dense_skeleton(config: Mapping[str, Any]) -> Any:
    """The dense model of a `config.json` without weights, on the meta device.

    Raises:
        ValueError: an architecture, arguments or sizes that no family makes.
    """
    name, arguments = config["architecture"], _tupled(config["model_args"])
    family = family_for(name, "architecture")
    with torch.device("meta"):
        # On the meta device no random number is drawn.
        model: Any = family.build(name, arguments)
    family.resize_(model, config["adacomcat"].get("sizes", {}))
    # A CAFormer knows the size of its images, and so the number of its tokens, from here alone.
    model.pretrained_cfg = {**family.preprocessing(model), **_tupled(config["pretrained_cfg"])}
    model.default_cfg = model.pretrained_cfg  # the older name, which timm keeps
    return model


def _skeleton(config: Mapping[str, Any]) -> Any:
    """The model of a `config.json` without weights, on the meta device."""
    model = dense_skeleton(config)
    shape_(model, config["adacomcat"]["modules"])
    return model


@torch.no_grad()
def _verify(model: Any, config: Mapping[str, Any]) -> None:
    """Raise unless the arguments make this model anew: its tensors, modules and outputs."""
    made = _skeleton(config)
    hint = "pass what timm.create_model was given as model_args"
    state = model.state_dict()
    try:
        check_tensors(made.state_dict(), state, "what timm makes of model_args")
    except ValueError as error:
        raise ValueError(f"{error}; {hint}") from error
    # Dropout, activations and the like have no tensors.
    for mine, other in zip_longest(_lines(model), _lines(made), fillvalue="nothing"):
        require(mine == other, "model_args", other, f"{mine}, as in the model; {hint}")
    made.load_state_dict(state, assign=True)
    noise = torch.randn(1, *input_shape(model), generator=torch.Generator().manual_seed(0))
    image = noise.to(next(model.parameters()))
    modes = [(module, module.training) for module in model.modules()]
    outputs = [each.eval()(image).nan_to_num() for each in (model, made)]
    for module, training in modes:
        module.training = training
    # Not to the last bit: two passes on a GPU may differ there.
    close = (outputs[0] - outputs[1]).abs().max() <= 1e-3 * outputs[0].abs().max()
    require(bool(close), "model_args", "other outputs", f"the model's; {hint}")


def _lines(model: nn.Module) -> list[str]:
    return [line.strip() for line in repr(model).splitlines()]


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that timm has."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, "missing") from error
