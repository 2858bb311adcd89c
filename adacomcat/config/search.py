"""Configuration of the search."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from adacomcat.checks import require
from adacomcat.config.base import Config
from adacomcat.config.phase import BatchSize, Rate

Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]


class SearchConfig(Config):
    """One search pass and the annealing across passes.

    The defaults are ComCAT's (arXiv 2305.17235, section 3.3); `adacomcat.methods.tokens.recipe` has
    those of DiffRate (arXiv 2305.17997).
    """

    place: ClassVar[str] = "search"

    strategy: str = "gradient"
    """Strategy that finds a plan. `gradient` trains the logits of a supernet. `sensitivity`
    estimates the effect of each option on the model's output, `measured` corrects that by
    measurements, and `energy` and `effective_rank` look at each layer alone: none of these trains.
    `uniform` takes the method's default plan. Other subclasses of
    `adacomcat.search.strategy.Strategy` are known by their own names."""
    steps: Steps | None = None
    """Steps of one search; None: one pass over the search split. More than a pass goes round."""
    images: Steps | None = None
    """Largest number of images in a search; replaces `steps`. Also the number of calibration
    images, 64 if None."""
    stable_steps: Steps | None = None
    """End a search once the plan that it would propose stood still for so many steps; None: no."""
    batch_size: BatchSize = 64
    """Images of one step, over all workers."""
    lr: float = Field(default=1e-2, gt=0, le=1000)
    min_lr: Rate | None = None
    """Final rate of a cosine over the steps of all searches that the schedule may make, by `clock`;
    None: constant. A single search runs through the whole cosine."""
    weight_decay: NonNegativeFloat = 5e-4
    penalty: Literal["power", "squared"] = "power"
    """Effect of a missed budget on the loss. `power`: times `(expected / target) ** beta`, above
    the target; `squared` (DiffRate): plus `penalty_weight * ((expected - target) / penalty_unit)
    ** 2`, on both sides of it."""
    beta: NonNegativeFloat = 1.5
    """Exponent of the penalty `power`."""
    penalty_weight: NonNegativeFloat = 5.0
    penalty_unit: PositiveFloat | None = None
    """Cost, in the unit of the budget, that counts as one; DiffRate: 1e9 MACs. None: the dense
    model's cost / 4.6, which for DeiT-S is that number and pulls as hard on other models."""
    temperature_start: PositiveFloat = 5.0
    temperature_end: PositiveFloat = 0.1
    clock: Literal["per_epoch", "per_search"] = "per_epoch"
    """Clock of temperature and rate; the reference anneals once per search."""
    noise: bool = True
    """Gumbel noise on the logits; without it the mixture is a plain softmax."""
    decision: Literal["projected", "argmax"] = "projected"
    """`projected`: the most probable plan within the budget; `argmax`: site by site (reference)."""
    train_mode: bool = False
    """Dropout and drop-path stay on during a search, as in both references."""
    bf16: bool = False
    """Autocast to bfloat16 where the device has it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images is not None:
            require(self.steps is None, "images", self.images, f"None with steps {self.steps}")
            enough = self.images >= self.batch_size
            require(enough, "images", self.images, f"batch_size ({self.batch_size}) or more")
        falls = self.min_lr is None or self.min_lr <= self.lr
        require(falls, "min_lr", self.min_lr, f"at most lr, {self.lr}")
        return self

    def most_steps(self, batches: int) -> int:
        """Steps of one search that is not ended early, where a pass has so many batches."""
        if self.images is not None:
            return min(self.images // self.batch_size, batches)
        return self.steps or batches
