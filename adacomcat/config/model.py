"""Configuration of the model to compress."""

from collections.abc import Mapping
from typing import Any, ClassVar

from adacomcat.config.base import Config


class ModelConfig(Config):
    """A timm vision transformer."""

    place: ClassVar[str] = "model"

    name: str = "vit_tiny_patch16_224"
    """A name of `timm.list_models()`."""
    options: Mapping[str, Any] = {}
    """Keyword arguments of `timm.create_model`, for instance `embed_dim`, `depth`, `num_heads`."""
