"""Augmentation of a whole batch at once, on the batch's device.

Every image has its own parameters, drawn for a whole epoch in one go and by an image's place in
the global stream of batches. So one worker and two augment an image alike, bit for bit, and an
epoch can be repeated without the ones before it.

Shapes: B images, C channels, H x W pixels with H = W, N images of an epoch.
"""

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adacomcat.checks import require

Augment = Literal["none", "affine", "crop_flip", "resized_crop"]
BATCHED = ("affine", "crop_flip")
"""Operations of this module; `resized_crop` needs the whole picture and runs when it is decoded."""
MAX_ANGLE_DEG = 10.0
MAX_SHIFT = 0.08
"""Share of the side."""
SCALES = (0.9, 1.1)
PADDING = 0.125
"""Share of the side that `crop_flip` pads on each side: 4 of 32 pixels, as usual for CIFAR."""


def check_augment(kind: str, where: str = "data.augment") -> None:
    """Raise for an unknown augmentation.

    Raises:
        ValueError: names the allowed ones.
    """
    require(kind in get_args(Augment), where, kind, ", ".join(get_args(Augment)))


def draw(kind: Augment, count: int, rng: np.random.Generator) -> Tensor | None:
    """The parameters of an epoch.

    Args:
        kind: which augmentation.
        count: N.
        rng: where they come from.

    Returns:
        What `apply` takes, N x K float32 (K = 6 for affine, 3 for crop_flip); None where
        nothing is done here.
    """
    if kind not in BATCHED:
        return None
    if kind == "affine":
        uniform = torch.from_numpy(rng.uniform(-1, 1, (count, 4)))
        angle = uniform[:, 0] * MAX_ANGLE_DEG
        low, high = SCALES
        scale = (low + high) / 2 + uniform[:, 3] * (high - low) / 2
        return inverse_affine(angle, uniform[:, 1:3] * MAX_SHIFT, scale).float()
    assert kind == "crop_flip", kind
    return torch.from_numpy(rng.uniform(0, 1, (count, 3)).astype(np.float32))


def apply(kind: Augment, images: Tensor, parameters: Tensor | None) -> Tensor:
    """Augment a batch.

    Args:
        kind: which augmentation.
        images: B x C x H x W, pixels in 0..1; what comes in from outside is 0 (black).
        parameters: B x K, rows of what `draw` gave.

    Returns:
        B x C x H x W.
    """
    if kind not in BATCHED:
        return images
    assert parameters is not None
    return affine(images, parameters) if kind == "affine" else crop_flip(images, parameters)


def inverse_affine(angle_deg: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The maps from output to input coordinates of a rotation, a scale and a shift, in this order.

    The convention is that of `torchvision.transforms.v2.functional.affine`: about the center,
    angles clockwise. Coordinates run from -1 to 1 over the side.

    Args:
        angle_deg: B.
        shift: B x 2, right and down, as shares of the side.
        scale: B, above 1 enlarges.

    Returns:
        B x 6, the 2 x 3 matrices row by row.
    """
    radians = torch.deg2rad(angle_deg)
    cos, sin = torch.cos(radians) / scale, torch.sin(radians) / scale
    right, down = 2 * shift[:, 0], 2 * shift[:, 1]
    rows = (cos, sin, -cos * right - sin * down, -sin, cos, sin * right - cos * down)
    return torch.stack(rows, dim=1)


def affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Move every image by its own map, bilinear, black outside.

    Args:
        images: B x C x H x W.
        matrices: B x 6, from `inverse_affine`.
    """
    side = images.shape[-1]
    centers = (torch.arange(side, device=images.device) * 2 + 1) / side - 1
    x, y = centers[None, None, :], centers[None, :, None]
    m = matrices.to(images)[:, :, None, None].unbind(1)
    # Elementwise, not F.affine_grid: its matrix product may round differently in smaller batches.
    grid = torch.stack((m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def crop_flip(images: Tensor, uniform: Tensor) -> Tensor:
    """Pad every image with black, cut a window of the old size out, mirror half of them.

    Args:
        images: B x C x H x W.
        uniform: B x 3 in 0..1: the window's place down and right, and mirrored from 0.5 on.
    """
    batch, channels, side, _ = images.shape
    padding = max(1, round(side * PADDING))
    padded = F.pad(images, (padding,) * 4)
    place = (uniform * (2 * padding + 1)).long().clamp_(max=2 * padding)
    steps = torch.arange(side, device=images.device)
    rows = place[:, :1] + steps
    columns = place[:, 1:2] + torch.where(uniform[:, 2:] >= 0.5, side - 1 - steps, steps)
    image = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
