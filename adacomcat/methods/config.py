"""Settings of several methods on one model."""

from typing import ClassVar, Literal

from pydantic import Field

from adacomcat.config.base import Config


class ComposeConfig(Config):
    """Search order of the parts, and their shares of the reduction."""

    place: ClassVar[str] = "method"

    order: Literal["jointly", "in_turn"] = "jointly"
    """`jointly`: each search trains all parts. `in_turn`: the first search trains the first part,
    the next one the next part, and all later ones the last; parts whose turn has not come get their
    default plan, the others keep what was found. For ranks and tokens: first the ranks, with all
    tokens, then the tokens at these ranks. Not the other way round: what a rank saves depends on
    the tokens that pay for it, and tokens can meet a budget to the last few MACs."""
    share: float = Field(default=0.5, gt=0, lt=1)
    """Contribution of the parts before the last to a budget: with s they alone would reach `dense *
    kept ** s`, where all together reach `dense * kept`. The last part saves the rest."""
