"""Settings of the low-rank method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from adacomcat.checks import require, require_known
from adacomcat.methods.registry import register

BLOCK_KINDS = ("qk", "vo", "fc1", "fc2")
"""Kinds of the sites of a block."""
KINDS = (*BLOCK_KINDS, "head")


@register(
    "lowrank",
    method="adacomcat.methods.lowrank.method:LowRank",
    spec="adacomcat.methods.lowrank.spec",
    recipe="adacomcat.methods.lowrank.recipe",
)
@dataclass(frozen=True, kw_only=True)
class LowRankConfig:
    """How a vision transformer is factorized, and which ranks a search may choose."""

    space: Literal["paper", "fractions", "aligned"] = "fractions"
    """`paper`: ComCAT's menus for widths 192, 384, 768; `fractions`: of each site's full rank, for
    any width; `aligned`: the fractions rounded to multiples of 8, for the hardware's matrix
    units."""
    fractions: tuple[float, ...] = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6)
    """Of `fractions` and `aligned`."""
    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
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
    calibrated: bool = False
    """Truncate for the inputs that `calibrate` saw, not for the weights alone."""

    def __post_init__(self) -> None:
        spaces = ("paper", "fractions", "aligned")
        require(self.space in spaces, "method.space", self.space, ", ".join(spaces))
        biases = ("exact", "drop")
        require(self.biases in biases, "method.biases", self.biases, ", ".join(biases))
        sources = ("current", "dense")
        require(self.source in sources, "method.source", self.source, ", ".join(sources))
        # JSON has no tuples: a configuration read back must equal the one written.
        for name in ("fractions", "sites", "keep_dense"):
            value = getattr(self, name)
            listed = isinstance(value, list | tuple)
            require(listed, f"method.{name}", value, f"a list, for instance [{value}]")
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "ranks", {k: tuple(v) for k, v in self.ranks.items()})
        require(len(self.fractions) > 0, "method.fractions", self.fractions, "at least one")
        for fraction in self.fractions:
            require(0 < fraction <= 1, "method.fractions", fraction, "above 0, at most 1")
        for kind, ranks in self.ranks.items():
            require_known(kind, KINDS, "method.ranks")
            require(len(ranks) > 0, f"method.ranks.{kind}", ranks, "at least one rank")
            for rank in ranks:
                require(rank > 0, f"method.ranks.{kind}", rank, "ranks of 1 or more")
