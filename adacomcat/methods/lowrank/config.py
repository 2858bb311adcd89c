"""Settings of the low-rank method."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from adacomcat.checks import require_known
from adacomcat.config.base import Config
from adacomcat.methods.registry import register

BLOCK_KINDS = ("qk", "vo", "fc1", "fc2")
"""Kinds of the sites of a block."""
KINDS = (*BLOCK_KINDS, "head")
Fraction = Annotated[float, Field(gt=0, le=1)]
Metrics = Literal["plain", "inputs", "attention", "gradients"]


@register(
    "lowrank",
    method="adacomcat.methods.lowrank.method:LowRank",
    spec="adacomcat.methods.lowrank.spec",
    recipe="adacomcat.methods.lowrank.recipe",
)
class LowRankConfig(Config):
    """Factorization of a vision transformer, and the ranks that a search may choose."""

    place: ClassVar[str] = "method"

    space: Literal["paper", "fractions", "aligned", "fine"] = "fractions"
    """`paper`: ComCAT's menus for widths 192, 384, 768; `fractions`: of each site's full rank, for
    any width; `aligned`: the fractions rounded to multiples of 8, for the hardware's matrix
    units; `fine`: steps of 1/32 of each site's full rank."""
    fractions: tuple[Fraction, ...] = Field(
        default=(1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6), min_length=1
    )
    """Shares of the full rank, for `fractions` and `aligned`."""
    ranks: Mapping[str, Annotated[tuple[PositiveInt, ...], Field(min_length=1)]] = {}
    """Kind -> ranks that replace the space's; of attention, over all heads together."""
    allow_larger: bool = False
    """Keep ranks at which two factors cost more than the dense matrix, as the paper's menus do."""
    sites: tuple[str, ...] = KINDS
    """Kinds, or patterns of site names (`blocks.0.*`): what is searched."""
    keep_dense: tuple[str, ...] = ()
    """Kinds or patterns that are taken out of `sites`."""
    biases: Literal["exact", "drop"] = "exact"
    """`exact`: attention biases fold into the factors; `drop`: they are lost (reference)."""
    source: Literal["current", "dense"] = "current"
    """What a later search truncates. `current`: the factors in force, so a rank can only fall
    (reference). `dense`: the factors and what earlier searches cut off, so a rank can grow back."""
    metrics: Metrics = "plain"
    """Which error a truncation minimizes. `plain`: of the weights (reference); `inputs`: of the
    site's output, on the images that `calibrate` saw; `attention`: likewise, with keys weighted by
    their attention; `gradients`: of the model's output, to first order and without labels."""

    @field_validator("ranks")
    @classmethod
    def _check_kinds(cls, ranks: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
        for kind in ranks:
            require_known(kind, KINDS, "")
        return ranks
