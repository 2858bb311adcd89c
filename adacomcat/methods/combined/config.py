"""Settings of the two methods together."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from adacomcat.checks import require
from adacomcat.config import from_mapping
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.tokens.config import DiffRateConfig

ORDERS = ("jointly", "ranks_first")


@dataclass(frozen=True, kw_only=True)
class CombinedConfig:
    """How the two are searched, and what each may save."""

    lowrank: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method `lowrank`."""
    diffrate: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method `diffrate`."""
    order: Literal["jointly", "ranks_first"] = "jointly"
    """`jointly`: each search trains both. `ranks_first`: the first search trains the ranks, with
    all tokens, and gives tokens uniform rates; those after it train the tokens, at these ranks. Not
    the other way round: what a rank saves depends on the tokens that pay for it, and tokens can
    meet a budget to the last few MACs."""
    share: float = 0.5
    """What ranks contribute to a budget: with s they alone would reach `dense * kept ** s`, where
    all together reach `dense * kept`. Tokens save the rest."""

    def __post_init__(self) -> None:
        require(self.order in ORDERS, "method.order", self.order, ", ".join(ORDERS))
        require(0 < self.share < 1, "method.share", self.share, "between 0 and 1")
        lowrank = from_mapping(LowRankConfig, self.lowrank, "method.lowrank")
        tokens = from_mapping(DiffRateConfig, self.diffrate, "method.diffrate")
        # Whole, so that equal settings make equal trials.
        object.__setattr__(self, "lowrank", asdict(lowrank))
        object.__setattr__(self, "diffrate", asdict(tokens))
