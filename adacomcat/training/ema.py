"""A moving average of a model's weights, through changes of its ranks."""

from itertools import chain

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class Average:
    """timm's moving average, `average = decay * average + (1 - decay) * weight` at each step.

    It begins at the weights as they are, as DeiT's does, without timm's warm-up of the decay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin at the model's weights; the model is copied."""
        self.decay = decay
        self._begin(model)

    @property
    def model(self) -> nn.Module:
        """A model of its own, in evaluation mode, whose weights are the average."""
        averaged: nn.Module = self._ema.module
        return averaged

    def update(self, model: nn.Module) -> None:
        """Take in the weights that a step has left."""
        self._ema.update(model)

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Go on after `commit_`: what the plan left alone keeps its average, the rest begins anew.

        An average of factors that are no longer there says nothing of the new ones: the product of
        two averages is not the average of the products.
        """
        before, known = self._of, _tensors(self.model)
        self._begin(model)
        averaged = _tensors(self.model)
        for name, tensor in self._of.items():
            if before.get(name) is tensor:
                averaged[name].copy_(known[name])

    def _begin(self, model: nn.Module) -> None:
        self._ema = ModelEmaV3(model, decay=self.decay)
        self._of = _tensors(model)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))
