"""Distillation from the dense model: soft or hard labels, and alignment of block outputs.

One forward of the teacher, in evaluation mode and without gradient, serves both. Sources: DeiT
(arXiv 2012.12877, section 3) for soft and hard distillation, here without a distillation token; the
reference implementation of ComCAT for the alignment loss: the mean squared error between outputs of
the same block, summed over the chosen blocks.

Shapes: B batch, C channels, H x W pixels, N tokens, D channels of a token.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.config import DistillConfig
from adacomcat.models.registry import family_of

Outputs = tuple[Tensor, list[Tensor]]
"""(B, classes) logits, and (B, N, D) of each chosen block."""


def align_weight(config: DistillConfig, epoch: int, epochs: int) -> float:
    """Weight of the alignment loss at an epoch of a phase.

    `cosine`: w cos(pi t / 2T). `compounding`: w times the product of those cosines from epoch 1 to
    t, as in the reference, which updates its weight in place. Never below the floor.
    """
    if not config.align_blocks:
        return 0.0
    quarter = [math.cos(math.pi * t / (2 * epochs)) for t in range(epoch + 1)]
    factor = {
        "constant": 1.0,
        "cosine": quarter[-1],
        "compounding": math.prod(quarter),
    }[config.align_schedule]
    return max(config.align_weight * factor, config.align_floor)


class WithBlockOutputs(nn.Module):
    """A model that also returns the outputs of chosen blocks, while `hooked`.

    The outputs are part of the forward's result, so that torch.compile and
    DistributedDataParallel see them.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[int]) -> None:
        """Choose blocks by index, from the end if negative.

        Raises:
            ValueError: the model has no such block.
        """
        super().__init__()
        self.model = model
        self._caught: list[Tensor] = []
        count = len(self._blocks()) if blocks else 0
        for block in blocks:
            require(
                -count <= block < count,
                "distill.align_blocks",
                block,
                f"-{count} to {count - 1}: the model has {count} blocks",
            )
        # A model of few blocks has some named twice (0 and -2 of two): each counts once.
        self.indices = sorted({block % count for block in blocks})

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Register the hooks for the length of a `with` block.

        A forward is compiled with the hooks in it, and not again for those of a later call: dynamo
        does not guard on hooks.
        """

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._caught.append(output)

        blocks = self._blocks() if self.indices else []
        hooks = [blocks[index].register_forward_hook(keep) for index in self.indices]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def forward(self, images: Tensor) -> Outputs:
        """Logits and the chosen blocks' outputs, in the model's order, for images (B, C, H, W)."""
        self._caught = []
        logits = self.model(images)
        outputs, self._caught = self._caught, []
        return logits, outputs

    def _blocks(self) -> list[nn.Module]:
        return [self.model.get_submodule(name) for name in family_of(self.model).blocks(self.model)]


class Distiller:
    """The losses of a student beside a frozen teacher."""

    def __init__(self, teacher: nn.Module, config: DistillConfig) -> None:
        self.config = config
        self.teacher = WithBlockOutputs(teacher, config.align_blocks)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Evaluation mode and hooks of the teacher, for the length of an epoch."""
        model = self.teacher.model
        training = model.training
        model.eval()
        with self.teacher.hooked():
            yield
        model.train(training)

    @torch.no_grad()
    def teach(self, images: Tensor) -> Outputs:
        """The teacher's outputs for images (B, C, H, W), as the student sees them."""
        outputs: Outputs = self.teacher(images)
        return outputs

    def __call__(
        self, student: Outputs, teacher: Outputs, label_loss: Tensor, weight: float
    ) -> tuple[Tensor, Tensor]:
        """Losses of a batch, in float32 whatever the models ran in.

        Args:
            student: outputs of the student.
            teacher: outputs of the teacher, for the same images.
            label_loss: shape (), of the student against the labels.
            weight: of the alignment loss.

        Returns:
            The loss to train on and the loss without alignment, both of shape ().
        """
        loss = self._distilled(student[0].float(), teacher[0].float(), label_loss)
        pairs = zip(student[1], teacher[1], strict=True)
        errors = [F.mse_loss(own.float(), other.float()) for own, other in pairs]
        return loss + weight * sum(errors, loss.new_zeros(())), loss

    def _distilled(self, logits: Tensor, teacher: Tensor, label_loss: Tensor) -> Tensor:
        share = self.config.weight
        if self.config.kind == "none":
            return label_loss
        if self.config.kind == "hard":
            teacher_loss = F.cross_entropy(logits, teacher.argmax(-1))
        else:
            t = self.config.temperature
            teacher_loss = t**2 * F.kl_div(
                (logits / t).log_softmax(-1),
                (teacher / t).log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
        return (1 - share) * label_loss + share * teacher_loss
