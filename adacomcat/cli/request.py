"""Trial configurations from command-line flags."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from adacomcat import recipes
from adacomcat.checks import require
from adacomcat.config import DenseConfig, ModelConfig, TrialConfig
from adacomcat.config.yaml import read_yaml
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.files import default_cache, sha256_file
from adacomcat.methods.base import SupportsMeasuringTimes
from adacomcat.methods.lowrank.recipe import imagenet_recipe, space
from adacomcat.methods.registry import DEFAULT, registrations
from adacomcat.models.registry import create_model, family_for, family_of
from adacomcat.models.weights import TIMM, image_size_of_weights
from adacomcat.overrides import build_config, parse_settings
from adacomcat.schedule import schedule_kind
from adacomcat.timetable import read_timetable

LARGE = 300_000
"""From so many training images on, a folder is cut as ImageNet is."""
SEARCH_IMAGES, VAL_FRACTION = 50_000, 0.01
RANDOM = "random"
"""The `--weights` of a model that is not trained: to try things out."""
LOADERS = 8
"""Processes that load images, where there are as many cores."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Origin of a stored model.

    Attributes:
        model: what it was made from, but for the sizes of its data.
        method: of its plan.
        macs: of an image.
        images: settings of `data` that its directory knows: size, mean, std, crop.
        stored: configuration of the run that left it; None where none is known.
    """

    model: ModelConfig
    method: str
    macs: int
    images: Settings
    stored: Mapping[str, Any] | None

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        side: int = self.images["data.image_size"]
        return side


def default_device(asked: str | None) -> str:
    """The requested device; by default a GPU if there is one."""
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def search_config(arguments: argparse.Namespace) -> TrialConfig:
    """The trial of a `search`: a workload's or a folder's recipe, then flags, then `--set`.

    Raises:
        ValueError: a missing flag, an unknown setting, or a value that is refused.
    """
    base, flags = _base(arguments, {}), Settings()
    upstream = arguments.preset == "upstream"
    if upstream or arguments.method is not None:
        epochs = flagged(arguments).get("search_phase.epochs")
        name = arguments.method or DEFAULT
        base = recipes.for_method(base, name, reference=upstream, epochs=epochs)
    if arguments.schedule is not None:
        flags["schedule"] = _schedule(arguments.schedule)
    if "budget.reduction" in flagged(arguments):
        flags["budget.absolute"] = None
    if arguments.target_gmacs is not None:
        macs = arguments.target_gmacs * 1e9
        flags |= {"budget.unit": "macs", "budget.absolute": macs, "budget.reduction": None}
    if arguments.latency_table is not None:
        table = read_timetable(arguments.latency_table)
        flags |= {"budget.unit": "latency", "budget.latency": table}
    config = _folded(base, flags | _weights(arguments), arguments)
    dense = config.dense
    trained = dense.weights is not None or dense.recipe.epochs > 0
    require(trained, "--weights", None, "a file, a URL, timm, or --set dense.recipe.epochs=N")
    return config


def finetune_config(arguments: argparse.Namespace, origin: Origin) -> TrialConfig:
    """The trial of a `finetune`.

    Args:
        arguments: as parsed.
        origin: of the model that is trained further.

    Raises:
        ValueError: a missing flag, an unknown setting, or a value that is refused.
    """
    if origin.stored is None:
        allowed = "of the dense model that teaches: this model comes without it"
        _require_data(arguments)
        require(arguments.weights is not None, "--weights", None, allowed)
    else:
        allowed = "nothing with a search's directory: it has its data"
        require(arguments.workload is None, "--workload", arguments.workload, allowed)
    return _folded(_origin_base(arguments, origin), _weights(arguments), arguments)


def resumed_config(arguments: argparse.Namespace, stored: TrialConfig) -> TrialConfig:
    """The configuration of a run that is resumed, with the machine's settings of today.

    Args:
        arguments: as parsed; `adacomcat.cli.flags.check_resumed` lets nothing else pass.
        stored: configuration in the run's record.

    Raises:
        ValueError: a value that is refused, or one setting given twice.
    """
    flags = flagged(arguments)
    if arguments.data is not None:
        flags["data.root"] = str(Path(arguments.data).absolute())
    return build_config(stored.to_json(), *_layers(arguments, flags))


def eval_config(arguments: argparse.Namespace, sizes: Settings) -> TrialConfig:
    """Data and dense model of an `eval` that names them; the rest of it does not matter.

    Args:
        arguments: as parsed.
        sizes: options of the model that a checkpoint tells.

    Raises:
        ValueError: a missing flag, an unknown setting, or a value that is refused.
    """
    flags = _weights(arguments)
    if arguments.published_rate is not None:
        sizes = published_of(arguments).model_options(arguments.model or "")
        if arguments.workload is None and arguments.weights is None:
            # Rates were published for the published weights.
            flags |= {"dense.weights": TIMM}
    base = _base(arguments, sizes)
    if arguments.comcat_dir is not None and arguments.workload is None:
        # The reference evaluates as DeiT does, not as timm's entry of that name says.
        images = Preprocessing().settings()
        del images["image_size"]
        base |= {f"data.{name}": value for name, value in images.items()}
    return _folded(base, flags, arguments)


def data_config(arguments: argparse.Namespace, origin: Origin) -> TrialConfig:
    """Data on which a stored model is evaluated.

    Args:
        arguments: as parsed.
        origin: of the model.

    Raises:
        ValueError: no data, an unknown setting, or a value that is refused.
    """
    if origin.stored is None:
        _require_data(arguments)
    return _folded(_origin_base(arguments, origin), {}, arguments)


def model_options(arguments: argparse.Namespace) -> Settings:
    """The `--set model.options...` of a command that takes nothing else.

    Raises:
        ValueError: another setting.
    """
    config = build_config({"model.name": arguments.model}, _settings(arguments))
    plain = build_config({"model.name": arguments.model, "model.options": config.model.options})
    require(config == plain, "--set", arguments.settings, "model.options.X=Y alone")
    published = getattr(arguments, "published_rate", None) is not None
    options = published_of(arguments).model_options(arguments.model) if published else {}
    return {**options, **config.model.options}


def measured_config(arguments: argparse.Namespace) -> TrialConfig:
    """Model and method of a `latency`; the rest of it does not matter.

    The space of ranks is that of a search on images of as many classes, unless a setting says
    otherwise.

    Raises:
        ValueError: a setting of anything else, an unknown one, or a value that is refused.
    """
    settings = _settings(arguments)
    for key, value in settings.items():
        part, _, name = key.partition(".")
        known = part == "method" or (part == "model" and name.partition(".")[0] == "options")
        require(known, f"--set {key}", value, "model.options.X=Y and method.X=Y alone")
    options = _entries(settings, "model.options")
    model = ModelConfig(name=arguments.model, options=options)
    plain = skeleton(model)
    method = {"name": DEFAULT, "space": space(plain.num_features, plain.num_classes)}
    side = _images(plain, options.get("img_size"))["image_size"]
    base = {"model.name": arguments.model, "method": method, "data.image_size": side}
    config = build_config(base, settings)
    timed = [
        known.name
        for known in registrations().values()
        if issubclass(known.load_method(), SupportsMeasuringTimes)
    ]
    name = config.method["name"]
    require(name in timed, "method.name", name, f"{', '.join(timed)}, whose options can be timed")
    return config


def one_shot_config(arguments: argparse.Namespace) -> TrialConfig:
    """Model, weights and method of a `compress`; the rest of it does not matter.

    Raises:
        ValueError: a setting of anything else, an unknown one, or a value that is refused.
    """
    settings = _settings(arguments)
    for key, value in settings.items():
        known = key.startswith(("method.", "model.options")) or key == "dense.sha256"
        allowed = "model.options.X=Y, method.X=Y and dense.sha256 alone"
        require(known, f"--set {key}", value, allowed)
    base = {"model.name": arguments.model, "method": {"name": arguments.method}}
    flags = {} if arguments.weights == RANDOM else _weights(arguments)
    return build_config(base, flags, settings)


def folder_settings(model: ModelConfig, root: Path, image_size: int | None = None) -> Settings:
    """The recipe for a folder of images: DeiT's on ImageNet, as far as the folder allows.

    The published menus of ranks where there are any for the model's width and the classes, else
    fractions. A folder as large as ImageNet gives a search 50 000 images and selection 1 %; of a
    smaller one a search gets 15 % and selection 10 %, the defaults of `DataConfig`.

    Args:
        model: what is trained on it.
        root: has train/ and val/.
        image_size: side in pixels; None: what the model was made for.

    Raises:
        ValueError: an unknown model, or a folder that is missing.
    """
    require(root.is_dir(), "--data", str(root), "a folder with train/ and val/")
    plain = skeleton(model, image_size=image_size)
    train = root / "train"
    entries = os.scandir(train) if train.is_dir() else ()
    classes = [entry.path for entry in entries if entry.is_dir()]
    data: Settings = {
        "name": "imagefolder",
        "root": str(root),
        **recipes.deit_augmentation(),
        **_images(plain, image_size),
    }
    files = (entry for folder in classes for entry in os.scandir(folder))
    if len(list(islice(files, LARGE))) == LARGE:
        data |= {"search_images": SEARCH_IMAGES, "val_fraction": VAL_FRACTION}
    options = {"drop_path_rate": 0.1, **model.options}
    return {
        "data": data,
        "runtime": {"num_workers": min(LOADERS, _cores())},
        "model": {"name": model.name, "options": options},
        "dense": {"recipe": {"epochs": 0}},
        "method": {"name": DEFAULT, "space": space(plain.num_features, len(classes))},
        **imagenet_recipe(base=plain.num_features >= 768),
    }


def skeleton(model: ModelConfig, *, num_classes: int = 1000, image_size: int | None = None) -> Any:
    """A model's modules without weights, on the meta device.

    Args:
        model: which one.
        num_classes: of its classifier.
        image_size: side in pixels; None: what models of this name are made for.

    Raises:
        ValueError: an unknown model or option, or sizes that do not go together.
    """
    with torch.device("meta"):
        side = image_size or family_for(model.name).image_size(model.name)
        return create_model(model, num_classes=num_classes, in_chans=3, image_size=side)


def _base(arguments: argparse.Namespace, sizes: Settings) -> Settings:
    """The recipe of a workload, or of a folder with the model that a flag names."""
    settings = _settings(arguments)
    options = {**sizes, **_entries(settings, "model.options")}
    if arguments.workload is None and arguments.model is None:
        return {}  # All of it is in the file of --config.
    if arguments.workload is None:
        name = settings.get("model.name")
        require("model.name" not in settings, "--set model.name", name, "--model M")
        model = ModelConfig(name=arguments.model, options=options)
        root = Path(arguments.data).absolute()
        side = settings.get("data.image_size", options.get("img_size"))
        weights = arguments.weights or settings.get("dense.weights")
        if side is None and weights not in (None, TIMM):
            dense = DenseConfig(weights=weights, sha256=settings.get("dense.sha256"))
            side = image_size_of_weights(dense, model, default_cache())
        return folder_settings(model, root, side)
    base = dict(recipes.find_recipe(arguments.workload, "--workload").settings)
    if arguments.data is not None:
        base["data.root"] = str(Path(arguments.data).absolute())
    if arguments.model is not None:
        base["model.name"] = arguments.model
    return base


def _origin_base(arguments: argparse.Namespace, origin: Origin) -> Settings:
    """A recipe for a stored model: the one that it comes from, else that of its data."""
    if origin.stored is not None and arguments.workload is None:
        root = {} if arguments.data is None else {"data.root": str(Path(arguments.data).absolute())}
        labels = {"data.label_names": origin.images["data.label_names"]}
        return {**origin.stored, **labels, **root}
    if arguments.workload is None:
        base = folder_settings(origin.model, Path(arguments.data).absolute(), origin.image_size)
        return _for_origin(base | origin.images, origin)
    base = dict(recipes.find_recipe(arguments.workload, "--workload").settings)
    if arguments.data is not None:
        base["data.root"] = str(Path(arguments.data).absolute())
    base["model"] = {"name": origin.model.name, "options": dict(origin.model.options)}
    return _for_origin(base | origin.images, origin)


def published_of(arguments: argparse.Namespace) -> recipes.PublishedPlans:
    """The published plans of the method that a flag names."""
    plans: recipes.PublishedPlans = registrations()[arguments.method].load_published()
    return plans


def _for_origin(base: Settings, origin: Origin) -> Settings:
    """A recipe for ranks changed to one of a stored model's method."""
    return recipes.for_method(base, origin.method, macs=origin.macs)


def _require_data(arguments: argparse.Namespace) -> None:
    somewhere = arguments.data is not None or arguments.workload is not None
    require(somewhere, "--data", None, "a folder: this model comes without its data")


def _images(plain: Any, image_size: int | None) -> Settings:
    """Preprocessing of the weights of this model."""
    known = family_of(plain).preprocessing(plain)
    return Preprocessing.of_model(known, image_size).settings()


def _folded(base: Settings, flags: Settings, arguments: argparse.Namespace) -> TrialConfig:
    """The configuration of a recipe, the file of `--config`, flags and `--set`, the last to win."""
    recipe = base | _precision(arguments)
    path = getattr(arguments, "config", None)
    file = {} if path is None else _file(path)
    return build_config(recipe, file, *_layers(arguments, flags | flagged(arguments)))


def _layers(arguments: argparse.Namespace, flags: Settings) -> tuple[Settings, Settings]:
    """Flags and `--set`, once it is known that none of them is given twice."""
    settings = _settings(arguments)
    for key in settings:
        require(key not in flags, f"--set {key}", settings[key], "this or its flag, not both")
    return flags, settings


def flagged(arguments: argparse.Namespace) -> Settings:
    """The flags that are settings by their own names, see `adacomcat.cli.flags`."""
    names = (name for name in vars(arguments) if "." in name or name == "seed")
    return {
        name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None
    }


def _file(path: Path) -> Settings:
    """The settings of a file, once it is known that they are all valid.

    Raises:
        ValueError: a file that cannot be read, no YAML, or a setting that is refused; it is named.
    """
    try:
        settings = read_yaml(path.read_bytes())
        require(isinstance(settings, Mapping), "settings", settings, "a mapping")
        build_config(settings)
    except OSError as error:
        raise ValueError(f"--config: cannot read {path} ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return dict(settings)


def _settings(arguments: argparse.Namespace) -> Settings:
    return parse_settings(arguments.settings)


def _entries(settings: Settings, prefix: str) -> Settings:
    """`{"depth": 2}` of the settings `{"model.options.depth": 2}`."""
    start = f"{prefix}."
    whole = settings.get(prefix, {})
    require(isinstance(whole, Mapping), f"--set {prefix}", whole, "a mapping of settings")
    parts = {key.removeprefix(start): v for key, v in settings.items() if key.startswith(start)}
    return {**whole, **parts}


def _schedule(kind: str) -> Settings:
    return {"kind": schedule_kind(kind, "--schedule").kind}


def _precision(arguments: argparse.Namespace) -> Settings:
    """Float32 on a CPU, unless a setting says otherwise: most CPUs only emulate bfloat16."""
    if default_device(arguments.device).startswith("cuda"):
        return {}
    parts = ("dense.recipe", "search", "search_phase", "finetune")
    return {f"{part}.bf16": False for part in parts}


def _weights(arguments: argparse.Namespace) -> Settings:
    """Weights that are given are taken as they are: nothing trains them further."""
    given = arguments.weights
    if given is None:
        return {}
    flags: Settings = {"dense.weights": given, "dense.recipe.epochs": 0}
    if given != TIMM and "://" not in given:
        path = Path(given).expanduser().absolute()
        flags["dense.weights"] = str(path)
        if path.is_file() and "dense.sha256" not in _settings(arguments):
            # So that a resume finds the same weights, and a result says which they were.
            flags["dense.sha256"] = sha256_file(path)
    return flags


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
