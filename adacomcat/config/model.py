"""Which model is compressed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A timm vision transformer."""

    name: str = "vit_tiny_patch16_224"
    """A name of `timm.list_models()`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `timm.create_model`, for instance `embed_dim`, `depth`, `num_heads`."""
