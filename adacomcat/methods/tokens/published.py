"""Published token counts of DiffRate (arXiv 2305.17997), applied to models."""

from typing import Any

from torch import nn

from adacomcat.checks import require
from adacomcat.methods.tokens.rates import published_at, published_options
from adacomcat.methods.tokens.spec import form_of, shape_, shapes_for


def model_options(name: str) -> dict[str, Any]:
    """Options with which timm makes the model that the published rates of a name are of."""
    return published_options(name)


def insert_(model: nn.Module, name: str, rate: float) -> None:
    """Make a dense model drop as many tokens as is published for it.

    Args:
        model: on any device, the meta device too.
        name: timm's, of the model.
        rate: in billions of MACs.

    Raises:
        ValueError: nothing is published for that name or that rate, or the model has another depth
            or other tokens.
    """
    rates = published_at(name, rate)
    shapes, own = shapes_for(model, rates), form_of(model).tokens
    # All lists begin with all tokens.
    allowed = f"{rates.merge[0]}, of which the published rates are"
    require(rates.merge[0] == own, "model: tokens", own, allowed)
    shape_(model, shapes)
