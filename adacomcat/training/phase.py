"""A model in training by one recipe, with all that its training needs beside it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from adacomcat import parallel
from adacomcat.config import PhaseConfig
from adacomcat.methods.base import ParameterMap
from adacomcat.precision import autocast
from adacomcat.training.distill import Distiller, Tapped
from adacomcat.training.ema import Average
from adacomcat.training.optim import build_optimizer, migrate


def label_criterion(recipe: PhaseConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss against the labels: timm's for soft targets, with label smoothing for hard ones."""
    if recipe.mixup > 0 or recipe.cutmix > 0:
        return SoftTargetCrossEntropy()
    return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)


class Trainee:
    """A model, its optimizer, its moving average, its teacher, and the way its forward is called.

    A change of ranks goes through `follow`; the model's parameters are replaced nowhere else.
    """

    def __init__(
        self, model: nn.Module, recipe: PhaseConfig, teacher: nn.Module | None = None
    ) -> None:
        """
        Args:
            model: what is trained, in place; searches and evaluations call it, or `result`, plain.
            recipe: how.
            teacher: frozen; without one nothing is distilled, whatever the recipe says.

        Raises:
            ValueError: blocks to align that a model does not have.
        """
        self.model, self.recipe = model, recipe
        self.optimizer = build_optimizer(model, recipe)
        decay = recipe.ema_decay
        self.average = None if decay is None else Average(model, decay)
        self.distiller: Distiller | None = None
        distils = recipe.distill.kind != "none" or recipe.distill.align_blocks
        if teacher is not None and distils:
            self.distiller = Distiller(teacher, recipe.distill)
            self._compile(self.distiller.teacher)
        self._criterion = label_criterion(recipe)
        self._renew()

    @property
    def result(self) -> nn.Module:
        """What the training stands for: the averaged model where there is one."""
        return self.model if self.average is None else self.average.model

    def hand_on_(self) -> None:
        """Give the model the averaged weights, where there are any; the training is over."""
        if self.average is not None:
            self.model.load_state_dict(self.average.model.state_dict())

    def follow(self, changes: ParameterMap) -> None:
        """Go on after a method's `commit_` on the model."""
        if self.recipe.optimizer_state == "rebuild":
            self.optimizer = build_optimizer(self.model, self.recipe)
        elif changes.moves:
            self.optimizer = migrate(self.optimizer, self.model, self.recipe, changes)
        if changes.changed:
            if self.average is not None:
                self.average.follow(self.model)
            self._renew()
        else:
            self._called = parallel.wrap(self._tapped)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Be ready for steps, for the length of an epoch."""
        self._called.train()
        with ExitStack() as stack:
            stack.enter_context(self._tapped.listening())
            if self.distiller is not None:
                stack.enter_context(self.distiller.listening())
            yield

    def step(self, images: Tensor, targets: Tensor, align_weight: float) -> Tensor:
        """One step of the optimizer on one batch, which goes through in `accumulate` parts.

        Args:
            images: (B, C, H, W), this worker's share of the batch.
            targets: (B,) labels or (B, classes) soft ones.
            align_weight: of the alignment loss.

        Returns:
            (2,): the loss and the loss without alignment, means over the images of this worker.
        """
        self.optimizer.zero_grad(set_to_none=True)
        count = self.recipe.accumulate
        parts = list(zip(images.chunk(count), targets.chunk(count), strict=True))
        total = torch.zeros(2, device=images.device)
        for index, (part, wanted) in enumerate(parts):
            # The workers' gradients are averaged once, when the last part's are there.
            with parallel.synchronized(self._called, index == len(parts) - 1):
                losses = self._losses(part, wanted, align_weight)
                losses = losses * (len(part) / len(images))
                losses[0].backward()
            total += losses.detach()
        if self.recipe.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        return total

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs beside the model's weights."""
        average = None if self.average is None else dict(self.average.model.state_dict())
        return {"optimizer": self.optimizer.state_dict(), "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as saved; the model has its saved shape and weights already."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])

    def _losses(self, images: Tensor, targets: Tensor, align_weight: float) -> Tensor:
        """(2,): the loss and the loss without alignment of one part of a batch."""
        with autocast(self.recipe.bf16, images.device):
            learnt = self._called(images)
            taught = None if self.distiller is None else self.distiller.teach(images)
        loss = base = self._criterion(learnt[0].float(), targets)
        if self.distiller is not None:
            assert taught is not None
            loss, base = self.distiller(learnt, taught, base, align_weight)
        return torch.stack([loss, base])

    def _renew(self) -> None:
        """Make what is called anew, for the parameters that the model has now."""
        if self.recipe.compile:
            # Dynamo stores by code, not by module, what it compiled, up to a limit: without this
            # the graphs of plans that are gone would use it up.
            torch.compiler.reset()
        blocks = () if self.distiller is None else self.recipe.distill.align_blocks
        self._tapped = Tapped(self.model, blocks)
        self._compile(self._tapped)
        self._called = parallel.wrap(self._tapped)

    def _compile(self, module: nn.Module) -> None:
        if self.recipe.compile:
            # Whole or not at all: a part that runs uncompiled should not go unnoticed, nor should
            # a limit that is reached.
            module.compile(fullgraph=True)
