"""Trial configurations from command-line flags."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adacomcat import recipes
from adacomcat.checks import require
from adacomcat.cli.folder import folder_settings, images_of, skeleton
from adacomcat.cli.settings import (
    Settings,
    entries_of,
    flagged,
    fold,
    given_settings,
    layers_of,
    schedule_settings,
    weights_settings,
)
from adacomcat.config import DenseConfig, ModelConfig, TrialConfig
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.files import default_cache
from adacomcat.methods.base import SupportsMeasuringTimes
from adacomcat.methods.lowrank.recipe import space
from adacomcat.methods.registry import DEFAULT, registrations
from adacomcat.models.weights import TIMM, image_size_of_weights
from adacomcat.overrides import build_config
from adacomcat.timetable import read_timetable

RANDOM = "random"
"""The `--weights` of a model that is not trained: to try things out."""


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
        flags["schedule"] = schedule_settings(arguments.schedule)
    if "budget.reduction" in flagged(arguments):
        flags["budget.absolute"] = None
    if arguments.target_gmacs is not None:
        macs = arguments.target_gmacs * 1e9
        flags |= {"budget.unit": "macs", "budget.absolute": macs, "budget.reduction": None}
    if arguments.latency_table is not None:
        table = read_timetable(arguments.latency_table)
        flags |= {"budget.unit": "latency", "budget.latency": table}
    config = fold(base, flags | weights_settings(arguments), arguments)
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
    return fold(_origin_base(arguments, origin), weights_settings(arguments), arguments)


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
    return build_config(stored.to_json(), *layers_of(arguments, flags))


def eval_config(arguments: argparse.Namespace, sizes: Settings) -> TrialConfig:
    """Data and dense model of an `eval` that names them; the rest of it does not matter.

    Args:
        arguments: as parsed.
        sizes: options of the model that a checkpoint tells.

    Raises:
        ValueError: a missing flag, an unknown setting, or a value that is refused.
    """
    flags = weights_settings(arguments)
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
    return fold(base, flags, arguments)


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
    return fold(_origin_base(arguments, origin), {}, arguments)


def model_options(arguments: argparse.Namespace) -> Settings:
    """The `--set model.options...` of a command that takes nothing else.

    Raises:
        ValueError: another setting.
    """
    config = build_config({"model.name": arguments.model}, given_settings(arguments))
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
    settings = given_settings(arguments)
    for key, value in settings.items():
        part, _, name = key.partition(".")
        known = part == "method" or (part == "model" and name.partition(".")[0] == "options")
        require(known, f"--set {key}", value, "model.options.X=Y and method.X=Y alone")
    options = entries_of(settings, "model.options")
    model = ModelConfig(name=arguments.model, options=options)
    plain = skeleton(model)
    method = {"name": DEFAULT, "space": space(plain.num_features, plain.num_classes)}
    side = images_of(plain, options.get("img_size"))["image_size"]
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
    settings = given_settings(arguments)
    for key, value in settings.items():
        known = key.startswith(("method.", "model.options")) or key == "dense.sha256"
        allowed = "model.options.X=Y, method.X=Y and dense.sha256 alone"
        require(known, f"--set {key}", value, allowed)
    base = {"model.name": arguments.model, "method": {"name": arguments.method}}
    flags = {} if arguments.weights == RANDOM else weights_settings(arguments)
    return build_config(base, flags, settings)


def _base(arguments: argparse.Namespace, sizes: Settings) -> Settings:
    """The recipe of a workload, or of a folder with the model that a flag names."""
    settings = given_settings(arguments)
    options = {**sizes, **entries_of(settings, "model.options")}
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
