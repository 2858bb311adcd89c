"""Budget penalties of a search.

Adaptive-ComCAT multiplies the cross-entropy by `(expected / target) ** beta` where the expected
cost is above the target. DiffRate (arXiv 2305.17997, section 3.3) adds the squared distance to the
target, from below as from above.
"""

from torch import Tensor

from adacomcat.budget import Budget
from adacomcat.config import SearchConfig

DENSE_UNITS = 4.6
"""Units of the squared penalty in the dense model's cost: of DiffRate's 1e9 MACs in DeiT-S."""


def penalized(loss: Tensor, expected: Tensor, budget: Budget, config: SearchConfig) -> Tensor:
    """The loss of a search step, shape (); the penalty takes part in the gradient.

    The difference that `squared` looks at is that of the whole model, since what is not searched
    costs the same on both sides.

    Args:
        loss: without penalty, shape ().
        expected: cost of the searched sites, shape ().
        budget: what they may cost.
        config: which penalty, and how strong.
    """
    if config.penalty == "power":
        return loss * (expected / budget.target).clamp(min=1.0) ** config.beta
    unit = config.penalty_unit or budget.dense / DENSE_UNITS
    return loss + config.penalty_weight * ((expected - budget.target) / unit) ** 2
