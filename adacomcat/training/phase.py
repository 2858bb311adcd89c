"""Training state of one phase: model, optimizer, moving average and teacher."""

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
from adacomcat.training.distill import Distiller, WithBlockOutputs
from adacomcat.training.ema import Average
from adacomcat.training.optim import build_optimizer, migrate


def label_criterion(recipe: PhaseConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss against the labels: timm's for soft targets, with label smoothing for hard ones."""
    if recipe.mixup > 0 or recipe.cutmix > 0:
        return SoftTargetCrossEntropy()
    return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)


class Phase:
    """Training state of a model by one recipe.

    After a method's `commit_` on the model, call `after_commit`; parameters are replaced nowhere
    else.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: PhaseConfig,
        teacher: nn.Module | None = None,
        own_loss: Callable[[], Tensor] | None = None,
    ) -> None:
        """
        Args:
            model: trained in place; searches and evaluations call it, or `result`, directly.
            recipe: of the phase.
            teacher: frozen; None: nothing is distilled, whatever the recipe says.
            own_loss: the method's own term for the batch of the last forward, shape (), which is
                added to the loss; see `SupportsTrainingLoss`.

        Raises:
            ValueError: blocks to align that a model does not have.
        """
        self.model, self.recipe, self._own_loss = model, recipe, own_loss
        self.optimizer = build_optimizer(model, recipe)
        decay = recipe.ema_decay
        self.average = None if decay is None else Average(model, decay)
        self.distiller: Distiller | None = None
        distils = recipe.distill.kind != "none" or recipe.distill.align_blocks
        if teacher is not None and distils:
            self.distiller = Distiller(teacher, recipe.distill)
            self._compile(self.distiller.teacher)
        self._criterion = label_criterion(recipe)
        self._wrap()

    @property
    def result(self) -> nn.Module:
        """The model to evaluate and keep: the averaged one where there is one."""
        return self.model if self.average is None else self.average.model

    def finish_(self) -> None:
        """End the phase: copy the averaged weights, if any, into the model."""
        if self.average is not None:
            self.model.load_state_dict(self.average.model.state_dict())

    def after_commit(self, changes: ParameterMap) -> None:
        """Carry optimizer and average through a method's `commit_` on the model."""
        if self.recipe.optimizer_state == "rebuild":
            self.optimizer = build_optimizer(self.model, self.recipe)
        elif changes.moves:
            self.optimizer = migrate(self.optimizer, self.model, self.recipe, changes)
        if changes.changed:
            if self.average is not None:
                self.average.after_commit(self.model)
            self._wrap()
        else:
            self._wrapped = parallel.wrap(self._student)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Train mode and hooks for the steps of an epoch."""
        self._wrapped.train()
        with ExitStack() as stack:
            stack.enter_context(self._student.hooked())
            if self.distiller is not None:
                stack.enter_context(self.distiller.hooked())
            yield

    def step(self, images: Tensor, targets: Tensor, align_weight: float) -> Tensor:
        """One optimizer step on one batch, in `accumulate` parts.

        Args:
            images: (B, C, H, W), this worker's share of the batch.
            targets: (B,) labels or (B, classes) soft ones.
            align_weight: of the alignment loss.

        Returns:
            (2,): the loss, and the base loss, without alignment and without the method's own term;
            means over the images of this worker.
        """
        self.optimizer.zero_grad(set_to_none=True)
        count = self.recipe.accumulate
        parts = list(zip(images.chunk(count), targets.chunk(count), strict=True))
        total = torch.zeros(2, device=images.device)
        for index, (part, wanted) in enumerate(parts):
            # The workers' gradients are averaged once, when the last part's are there.
            with parallel.synchronized(self._wrapped, index == len(parts) - 1):
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
        """State of optimizer and average; the model's weights are the caller's to save."""
        average = None if self.average is None else dict(self.average.model.state_dict())
        return {"optimizer": self.optimizer.state_dict(), "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state; the model already has its saved shapes and weights."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])

    def _losses(self, images: Tensor, targets: Tensor, align_weight: float) -> Tensor:
        """The loss and the base loss of one part of a batch, as a tensor (2,)."""
        with autocast(self.recipe.bf16, images.device):
            student = self._wrapped(images)
            teacher = None if self.distiller is None else self.distiller.teach(images)
        loss = base = self._criterion(student[0].float(), targets)
        if self.distiller is not None:
            assert teacher is not None
            loss, base = self.distiller(student, teacher, base, align_weight)
        if self._own_loss is not None:
            loss = loss + self._own_loss()
        return torch.stack([loss, base])

    def _wrap(self) -> None:
        """Wrap the model for training with the parameters that it has now."""
        if self.recipe.compile:
            # Dynamo caches graphs by code object, up to a limit, which those of earlier plans would
            # use up.
            torch.compiler.reset()
        blocks = () if self.distiller is None else self.recipe.distill.align_blocks
        self._student = WithBlockOutputs(self.model, blocks)
        self._compile(self._student)
        self._wrapped = parallel.wrap(self._student)

    def _compile(self, module: nn.Module) -> None:
        if self.recipe.compile:
            # fullgraph: a graph break or a reached recompilation limit is an error, not a slowdown.
            module.compile(fullgraph=True)
