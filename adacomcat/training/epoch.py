"""One epoch of training and one pass of evaluation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from adacomcat.checks import NonFiniteLoss, require
from adacomcat.config import PhaseConfig
from adacomcat.parallel import sum_over_workers_
from adacomcat.precision import autocast
from adacomcat.training.phase import Phase

CHECK_EVERY = 50
"""Steps between two looks at whether the loss is finite; each look waits for the device."""


@dataclass(frozen=True)
class EpochStats:
    """Means over the images of an epoch, all workers together.

    Attributes:
        loss: what was trained on; base_loss: without alignment and the method's term.
    """

    loss: float
    base_loss: float
    images: int


def mixer(recipe: PhaseConfig, num_classes: int) -> Callable[[Tensor, Tensor], Any] | None:
    """timm's mixup and cutmix, where the recipe has any."""
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def train_epoch(
    phase: Phase,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    align_weight: float = 0.0,
) -> EpochStats:
    """Train for one epoch.

    Args:
        phase: with its optimizer at the epoch's learning rate.
        batches: this worker's share of each: images (B, C, H, W) and labels (B,), on the model's
            device.
        num_classes: of the data set, for soft targets.
        align_weight: of the alignment loss.

    Raises:
        NonFiniteLoss: names the step.
    """
    mix = mixer(phase.recipe, num_classes)
    losses: list[Tensor] = []
    counts: list[int] = []
    with phase.training():
        for images, labels in batches:
            counts.append(len(images))
            if mix is not None:
                images, labels = mix(images, labels)
            losses.append(phase.step(images, labels, align_weight))
            if len(losses) % CHECK_EVERY == 0:
                _check_finite(losses)
    _check_finite(losses)
    shares = losses[0].new_tensor(counts, dtype=torch.float64)
    sums = shares @ torch.stack(losses).double()
    everywhere = sum_over_workers_(torch.cat([sums, shares.sum()[None]]))
    total, base_total, images_seen = everywhere.tolist()
    return EpochStats(total / images_seen, base_total / images_seen, int(images_seen))


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], recipe: PhaseConfig
) -> tuple[float, float]:
    """(accuracy from 0 to 1, cross-entropy) over every image of all workers, counted once.

    Nothing waits for the device before the last batch.

    Raises:
        ValueError: there is no image, for instance because none could be read.
    """
    device = next(model.parameters()).device
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for images, labels in batches:
        with autocast(recipe.bf16, device):
            logits = model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(-1) == labels).sum()
        sums += torch.stack([correct, loss, loss.new_tensor(len(labels))]).double()
    correct, loss, count = sum_over_workers_(sums).tolist()
    require(count > 0, "images", "none that can be read", "one or more to evaluate on")
    return correct / count, loss / count


def _check_finite(losses: list[Tensor]) -> None:
    finite = torch.stack(losses[-CHECK_EVERY:])[:, 0].isfinite()
    if not finite.all():
        start = max(len(losses) - CHECK_EVERY, 0)
        step = start + int((~finite).nonzero()[0])
        raise NonFiniteLoss(f"loss {losses[step][0].item()} at step {step}")
