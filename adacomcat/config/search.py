"""How a plan is searched for."""

from dataclasses import dataclass
from typing import Literal

from adacomcat.checks import require


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search pass and the annealing across passes.

    The defaults are ComCAT's (arXiv 2305.17235, section 3.3); `adacomcat.methods.tokens.recipe` has
    those of DiffRate (arXiv 2305.17997).
    """

    strategy: str = "gradient"
    """How a plan is found: `gradient` trains the logits of a supernet, `uniform` takes the method's
    default plan; or another class of `adacomcat.search`, by its name."""
    steps: int | None = None
    """Steps of one search; None: one pass over the search split. More than a pass goes round."""
    images: int | None = None
    """In place of `steps`: a pass that ends before it has seen more than so many images."""
    stable_steps: int | None = None
    """End a search once the plan that it would propose stood still for so many steps; None: no."""
    batch_size: int = 64
    """Images of one step, over all workers."""
    lr: float = 1e-2
    min_lr: float | None = None
    """What the rate falls to, along a cosine over the steps of all searches that the schedule may
    make, by `clock`; None: it stays. One search alone has the whole cosine."""
    weight_decay: float = 5e-4
    penalty: Literal["power", "squared"] = "power"
    """What a missed budget does to the loss. `power`: times `(expected / target) ** beta`, above
    the target; `squared` (DiffRate): plus `penalty_weight * ((expected - target) / penalty_unit)
    ** 2`, on both sides of it."""
    beta: float = 1.5
    """Exponent of the penalty `power`."""
    penalty_weight: float = 5.0
    penalty_unit: float | None = None
    """Cost, in the unit of the budget, that counts as one; DiffRate: 1e9 MACs. None: the dense
    model's cost / 4.6, which for DeiT-S is that number and pulls as hard on other models."""
    temperature_start: float = 5.0
    temperature_end: float = 0.1
    clock: Literal["per_epoch", "per_search"] = "per_epoch"
    """What temperature and rate follow; the reference anneals once a search."""
    noise: bool = True
    """Gumbel noise on the logits; without it the mixture is a plain softmax."""
    decision: Literal["projected", "argmax"] = "projected"
    """`projected`: the most probable plan within the budget; `argmax`: site by site (reference)."""
    train_mode: bool = False
    """Dropout and drop-path stay on during a search, as in both references."""
    bf16: bool = False
    """Autocast to bfloat16 where the device has it."""

    def __post_init__(self) -> None:
        for name in ("steps", "stable_steps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"search.{name}", value, "1 or more, or None")
        require(self.batch_size > 0, "search.batch_size", self.batch_size, "1 or more")
        if self.images is not None:
            steps, size = self.steps, self.batch_size
            require(steps is None, "search.images", self.images, f"None with search.steps {steps}")
            least = f"{size} or more, a batch of search.batch_size"
            require(self.images >= size, "search.images", self.images, least)
        require(self.lr > 0, "search.lr", self.lr, "above 0")
        falls = self.min_lr is None or 0 <= self.min_lr <= self.lr
        require(falls, "search.min_lr", self.min_lr, f"0 to search.lr, {self.lr}, or None")
        require(self.weight_decay >= 0, "search.weight_decay", self.weight_decay, "0 or more")
        require(
            self.penalty in ("power", "squared"), "search.penalty", self.penalty, "power, squared"
        )
        require(self.beta >= 0, "search.beta", self.beta, "0 or more")
        weight, unit = self.penalty_weight, self.penalty_unit
        require(weight >= 0, "search.penalty_weight", weight, "0 or more")
        require(unit is None or unit > 0, "search.penalty_unit", unit, "above 0, or None")
        for name in ("temperature_start", "temperature_end"):
            require(getattr(self, name) > 0, f"search.{name}", getattr(self, name), "above 0")
        require(
            self.clock in ("per_epoch", "per_search"),
            "search.clock",
            self.clock,
            "per_epoch, per_search",
        )
        require(
            self.decision in ("projected", "argmax"),
            "search.decision",
            self.decision,
            "projected, argmax",
        )

    def most_steps(self, batches: int) -> int:
        """Steps of one search that is not ended early, where a pass has so many batches."""
        if self.images is not None:
            return min(self.images // self.batch_size, batches)
        return self.steps or batches
