"""One epoch of training and one pass of evaluation."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.optim import Optimizer

from adacomcat.checks import NonFiniteLoss
from adacomcat.config import PhaseConfig
from adacomcat.parallel import sum_over_workers_
from adacomcat.training.distill import Distiller

CHECK_EVERY = 50
"""Steps between two looks at whether the loss is finite; each look waits for the device."""


@dataclass(frozen=True)
class EpochStats:
    """Means over the images of an epoch, all workers together.

    Attributes:
        loss: what was trained on; base_loss: without alignment.
    """

    loss: float
    base_loss: float
    images: int


def autocast(phase: PhaseConfig, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where the recipe asks for it and the device has it."""
    usable = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if phase.bf16 and usable:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def label_criterion(phase: PhaseConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss against the labels: timm's for soft targets, with label smoothing for hard ones."""
    if phase.mixup > 0 or phase.cutmix > 0:
        return SoftTargetCrossEntropy()
    return nn.CrossEntropyLoss(label_smoothing=phase.label_smoothing)


def mixer(phase: PhaseConfig, num_classes: int) -> Callable[[Tensor, Tensor], Any] | None:
    """timm's mixup and cutmix, where the recipe has any."""
    if phase.mixup == 0 and phase.cutmix == 0:
        return None
    return Mixup(
        mixup_alpha=phase.mixup,
        cutmix_alpha=phase.cutmix,
        label_smoothing=phase.label_smoothing,
        num_classes=num_classes,
    )


def train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    phase: PhaseConfig,
    *,
    num_classes: int,
    distiller: Distiller | None,
    align_weight: float,
) -> EpochStats:
    """Train for one epoch.

    Args:
        model: what is called, wrapped for several workers where there are any.
        batches: images (B, C, H, W) and labels (B,), on the model's device.
        optimizer: at the epoch's learning rate.
        phase: the recipe.
        num_classes: of the data set, for soft targets.
        distiller: the teacher's part; None without a teacher.
        align_weight: of the alignment loss.

    Raises:
        NonFiniteLoss: names the step.
    """
    device = next(model.parameters()).device
    criterion, mix = label_criterion(phase), mixer(phase, num_classes)
    losses: list[Tensor] = []
    images_seen = 0
    model.train()
    with distiller.listening() if distiller else nullcontext():
        for images, labels in batches:
            images_seen += len(images)
            if mix is not None:
                images, labels = mix(images, labels)
            with autocast(phase, device):
                logits = model(images)
                base = criterion(logits, labels)
                loss = base
                if distiller is not None:
                    loss, base = distiller(images, logits, base, align_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if phase.clip_grad is not None:
                nn.utils.clip_grad_norm_(model.parameters(), phase.clip_grad)
            optimizer.step()
            losses.append(torch.stack([loss.detach(), base.detach()]).float())
            if len(losses) % CHECK_EVERY == 0:
                _check_finite(losses)
    _check_finite(losses)
    means = sum_over_workers_(torch.stack(losses).double().sum(0))
    counts = sum_over_workers_(means.new_tensor([len(losses), images_seen]))
    total, base_total = (means / counts[0]).tolist()
    return EpochStats(total, base_total, int(counts[1]))


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], phase: PhaseConfig
) -> tuple[float, float]:
    """(accuracy from 0 to 1, cross-entropy) over every image of all workers, counted once."""
    device = next(model.parameters()).device
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for images, labels in batches:
        with autocast(phase, device):
            logits = model(images).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(-1) == labels).sum()
        sums += torch.stack([correct, loss, loss.new_tensor(len(labels))]).double()
    correct_share, loss_mean, count = sum_over_workers_(sums).tolist()
    return correct_share / count, loss_mean / count


def _check_finite(losses: list[Tensor]) -> None:
    finite = torch.stack(losses[-CHECK_EVERY:])[:, 0].isfinite()
    if not finite.all():
        start = max(len(losses) - CHECK_EVERY, 0)
        step = start + int((~finite).nonzero()[0])
        raise NonFiniteLoss(f"loss {losses[step][0].item()} at step {step}")
