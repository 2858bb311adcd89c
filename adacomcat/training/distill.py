"""What the student learns from the dense model: its labels, and the outputs of some of its blocks.

One forward of the teacher serves both, in evaluation mode and without gradient. Sources: DeiT
(arXiv 2012.12877, section 3) for soft and hard distillation, here without a distillation token;
the alignment loss is the reference implementation's: the mean squared error between outputs of the
same block, summed over the chosen blocks.
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


def align_weight(config: DistillConfig, epoch: int, epochs: int) -> float:
    """Weight of the alignment loss at an epoch of a phase.

    `cosine`: w cos(pi t / 2T). `compounding`: w times the product of those cosines from epoch 1 to
        t, what the reference does by updating its weight in place. Never below the floor.
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


class Taps:
    """Outputs of chosen blocks of a model, caught while `listening`."""

    def __init__(self, model: nn.Module, blocks: Sequence[int]) -> None:
        """Choose blocks by index, from the end if negative.

        Raises:
            ValueError: the model has no such block.
        """
        found = list(model.get_submodule("blocks").children())
        for block in blocks:
            require(
                -len(found) <= block < len(found), "distill.align_blocks", block,
                f"-{len(found)} to {len(found) - 1}: the model has {len(found)} blocks",
            )  # fmt: skip
        # A model of few blocks has some named twice (0 and -2 of two): each counts once.
        indices = sorted({block % len(found) for block in blocks})
        self.blocks = [found[i] for i in indices]
        self.outputs: list[Tensor] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch outputs of each forward in the block; the hooks are gone afterwards."""

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.outputs.append(output)

        hooks = [block.register_forward_hook(keep) for block in self.blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.outputs.clear()

    def take(self) -> list[Tensor]:
        """The outputs of the last forward, in the order of the blocks."""
        outputs, self.outputs = self.outputs, []
        return outputs


class Distiller:
    """The losses of a student beside a frozen teacher."""

    def __init__(self, student: nn.Module, teacher: nn.Module, config: DistillConfig) -> None:
        self.config = config
        self.teacher = teacher
        self._student_taps = Taps(student, config.align_blocks)
        self._teacher_taps = Taps(teacher, config.align_blocks)

    @property
    def active(self) -> bool:
        """Whether the teacher is needed at all."""
        return self.config.kind != "none" or bool(self.config.align_blocks)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch what alignment compares, for the length of an epoch."""
        training = self.teacher.training
        self.teacher.eval()
        with self._student_taps.listening(), self._teacher_taps.listening():
            yield
        self.teacher.train(training)

    def __call__(
        self, images: Tensor, logits: Tensor, label_loss: Tensor, weight: float
    ) -> tuple[Tensor, Tensor]:
        """Losses of a batch whose student forward has just run.

        Args:
            images: (B, C, H, W), as the student saw them.
            logits: (B, classes) of the student.
            label_loss: shape (), of the student against the labels.
            weight: of the alignment.

        Returns:
            The loss to train on and the loss without alignment, both of shape ().
        """
        if not self.active:
            return label_loss, label_loss
        with torch.no_grad():
            taught = self.teacher(images)
        loss = self._distilled(logits, taught, label_loss)
        pairs = zip(self._student_taps.take(), self._teacher_taps.take(), strict=True)
        alignment = sum((F.mse_loss(own, other) for own, other in pairs), logits.new_zeros(()))
        return loss + weight * alignment, loss

    def _distilled(self, logits: Tensor, taught: Tensor, label_loss: Tensor) -> Tensor:
        share = self.config.weight
        if self.config.kind == "none":
            return label_loss
        if self.config.kind == "hard":
            taught_loss = F.cross_entropy(logits, taught.argmax(-1))
        else:
            t = self.config.temperature
            taught_loss = t**2 * F.kl_div(
                (logits / t).log_softmax(-1),
                (taught / t).log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
        return (1 - share) * label_loss + share * taught_loss
