"""Exponential moving average of a model's weights, kept across changes of the plan."""

from itertools import chain

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class Average:
    """timm's moving average, `average = decay * average + (1 - decay) * weight` at each step.

    It starts at the initial weights, as DeiT's does, without timm's warm-up of the decay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the model's weights; the model is copied."""
        self.decay = decay
        self._begin(model)

    @property
    def model(self) -> nn.Module:
        """The averaged model, a copy in evaluation mode."""
        averaged: nn.Module = self._ema.module
        return averaged

    def update(self, model: nn.Module) -> None:
        """Update the average after an optimizer step."""
        self._ema.update(model)

    @torch.no_grad()
    def after_commit(self, model: nn.Module) -> None:
        """Keep the average of tensors that `commit_` left alone; restart that of the others.

        Averages of replaced factors do not carry over: the product of two averages is not the
        average of the products.
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
