"""Base class for the families of timm's models."""

from collections.abc import Mapping
from typing import Any, ClassVar

import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.config import ModelConfig
from adacomcat.cost import count_params
from adacomcat.models.base import ModelFamily
from adacomcat.models.timm_options import check_options, check_sides, one_line

MOST_PARAMS = 20_000_000_000
"""Parameters of the largest model that is made: beyond them a mistake fills the memory."""


class TimmFamily(ModelFamily):
    """Models that `timm.create_model` makes."""

    homes: ClassVar[tuple[str, ...]]
    """Modules of `timm.models` whose models these are."""
    sized: ClassVar[bool] = True
    """Whether a model is made for one image size, `img_size`."""

    def makes(self, name: str) -> bool:
        return timm.is_model(name) and _home(name) in self.homes

    def names(self) -> tuple[str, ...]:
        return tuple(name for home in self.homes for name in timm.list_models(module=home))

    def explain(self, name: str) -> str:
        return f"timm has it in {_home(name)}" if timm.is_model(name) else ""

    def image_size(self, name: str) -> int:
        known = get_pretrained_cfg(name)
        size = None if known is None else known.input_size
        return super().image_size(name) if size is None else int(size[-1])

    def create(
        self, config: ModelConfig, *, num_classes: int, in_chans: int, image_size: int
    ) -> nn.Module:
        """Build a timm model with random weights, for a data set's images and classes.

        What it was made from stays with it, as `model.model_args` (see `creation`).
        """
        sizes: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
        if self.sized:
            sizes["img_size"] = image_size
        options: dict[str, Any] = {**sizes, **config.options}
        check_options(config.options, self.types)
        check_sides(options, image_size)
        if config.options:
            self._check_buildable(config, sizes)
        model: Any = self._made(config.name, options, "model.options")
        self._check_made(model, config.name)
        if not self.sized:
            size = (options["in_chans"], image_size, image_size)
            model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "input_size": size}
        model.model_args = {k: v for k, v in options.items() if not k.startswith("pretrained_cfg")}
        assert isinstance(model, nn.Module)
        return model

    def final_tokens(self, model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
        backbone: Any = model
        features: Tensor = backbone.forward_features(images)
        if features.ndim == 4:
            # (B, D, H, W) of a convolutional model.
            features = features.flatten(2).mT
        return features, int(getattr(model, "num_prefix_tokens", 0))

    def creation(self, model: nn.Module) -> tuple[str, dict[str, Any]]:
        """(architecture, arguments) with which `timm.create_model` makes a model anew.

        For a model that `create` did not make, arguments are read off it, as far as that goes:
        sizes of the data, but no options.
        """
        made: Any = model
        known: Mapping[str, Any] = getattr(made, "pretrained_cfg", None) or {}
        name = known.get("architecture")
        require(name is not None, "model", type(model).__name__, "a model that timm made")
        arguments = getattr(made, "model_args", None)
        if arguments is None:
            channels, *sides = self.input_shape(model)
            arguments = {"in_chans": channels, "global_pool": self.pooling(model)}
            if self.sized:
                arguments["img_size"] = sides[0] if sides[0] == sides[1] else sides
        # `reset_classifier` may have been called since.
        return str(name), {**arguments, "num_classes": made.num_classes}

    def build(self, name: str, arguments: Mapping[str, Any]) -> nn.Module:
        model = self._made(name, arguments, "model_args")
        assert isinstance(model, nn.Module)
        return model

    def pooling(self, model: nn.Module) -> str:
        pool: Any = model.global_pool
        return str(getattr(pool, "pool_type", pool))

    def _made(self, name: str, options: Mapping[str, Any], field: str) -> Any:
        try:
            return timm.create_model(name, pretrained=False, **options)
        except Exception as error:
            # Of any kind: options reach layers of timm and of PyTorch unchecked.
            why = one_line(error)
            raise ValueError(f"{field}: timm {timm.__version__} makes no {name}: {why}") from error

    def _check_buildable(self, config: ModelConfig, sizes: Mapping[str, Any]) -> None:
        """Raise where options make no model, or one too large; without weights in memory.

        Raises:
            ValueError: names the one option without which a model would be made, if there is one.
        """

        def build(options: Mapping[str, Any]) -> tuple[Any, Exception | None]:
            try:
                with torch.random.fork_rng(devices=[]), torch.device("meta"):
                    return timm.create_model(config.name, pretrained=False, **options), None
            except Exception as error:
                return None, error

        options = {**sizes, **config.options}
        model, error = build(options)
        if error is not None:
            for name, value in config.options.items():
                others = {key: other for key, other in options.items() if key != name}
                makes = build({**sizes, **others})[1] is None
                allowed = f"what timm {timm.__version__} makes a {config.name} of"
                why = one_line(error)
                require(not makes, f"model.options.{name}", value, f"{allowed} ({why})")
            return  # Not one option alone: what timm says of them has to do.
        params = count_params(model)
        got = f"{params:,} parameters"
        require(params <= MOST_PARAMS, "model.options", got, f"at most {MOST_PARAMS:,}")

    def _check_made(self, model: Any, name: str) -> None:
        """Raise where a model that timm made cannot take its images."""


def _home(name: str) -> str:
    return str(model_entrypoint(name).__module__.rpartition(".")[2])
