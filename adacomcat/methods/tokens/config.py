"""Settings of the token method."""

from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from adacomcat.checks import require
from adacomcat.config.base import Config
from adacomcat.methods.registry import register


@register(
    "diffrate",
    method="adacomcat.methods.tokens.method:DiffRate",
    spec="adacomcat.methods.tokens.spec",
    recipe="adacomcat.methods.tokens.recipe",
    published="adacomcat.methods.tokens.published",
)
class DiffRateConfig(Config):
    """Settings of the token search (DiffRate, arXiv 2305.17997); `reference` follows the published
    code."""

    place: ClassVar[str] = "method"

    granularity: PositiveInt = 1
    """Step between the candidate token counts of a block."""
    prune: bool = True
    """Whether tokens are dropped; ignored for CAFormer, which only merges."""
    merge: bool = True
    """Whether tokens are merged into similar ones."""
    fixed_blocks: tuple[int, ...] | None = None
    """Blocks that keep all their tokens, from the end where negative. None: as published, the first
    one; the last one too where the head averages over tokens."""
    sizes: Literal["exact", "reference"] = "exact"
    """`exact`: a similarity below zero adds no size, in a search as later; `reference`: it takes
    size away, and a search keeps sizes at 1 or more, so that its outputs differ from those of
    inference."""
    mask_gradient: Literal["bounded", "reference"] = "bounded"
    """Gradient for a dropped token: the finite change that its return would cause (`bounded`), or
    the slope at a mask of zero (`reference`), unbounded if a query attends mostly to it."""
    min_gradient: Literal["active", "both"] = "active"
    """Gradient of the cost with respect to a block's two counts: only the smaller one, or both
    (reference)."""
    macs: Literal["counted", "published"] = "counted"
    """`counted`: all matrix products, those of the matching too, as `adacomcat.cost` has them;
    `published`: by the formula of the paper, for a search alone."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require(self.prune or self.merge, "prune", False, "true, or merge: true")
        return self
