"""Random erasing of a batch, on the batch's device: noise over a rectangle of some images.

After Zhong et al., arXiv 1708.04896, as timm's `RandomErasing(mode="pixel")` and DeiT do it: on
normalized images, one rectangle, standard normal noise a pixel. What differs: an image's rectangle
and noise follow from its place in the epoch alone, so one worker and two give the same images.

Shapes: B images, C channels, H x W pixels with H = W, N images of an epoch.
"""

import math

import numpy as np
import torch
from torch import Tensor

AREAS = (0.02, 1 / 3)
"""Share of the image that is covered; timm's defaults, as those below."""
LOG_ASPECTS = (math.log(0.3), math.log(1 / 0.3))
ATTEMPTS = 10
"""At a rectangle that fits; an image for which none does stays whole."""


def draw(probability: float, count: int, side: int, rng: np.random.Generator) -> np.ndarray | None:
    """The rectangles of an epoch.

    Args:
        probability: that an image is erased.
        count: N.
        side: H.
        rng: where they come from.

    Returns:
        N x 5, int64: top, left, height (0: not erased), width, seed of the noise; None where
        `probability` is 0.
    """
    if probability == 0:
        return None
    rows = np.zeros((count, 5), dtype=np.int64)
    erased = np.flatnonzero(rng.random(count) < probability)
    shape = (len(erased), ATTEMPTS)
    area = rng.uniform(*AREAS, shape) * side**2
    aspect = np.exp(rng.uniform(*LOG_ASPECTS, shape))
    height = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    width = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (height < side) & (width < side)
    first = fits.argmax(1)
    chosen = np.arange(len(erased)), first
    size = np.stack((height[chosen], width[chosen]), axis=1) * fits[chosen][:, None]
    place = np.floor(rng.random((len(erased), 2)) * (side - size + 1)).astype(np.int64)
    seeds = rng.integers(0, 2**63, len(erased), dtype=np.int64)
    rows[erased] = np.concatenate((place, size, seeds[:, None]), axis=1)
    return rows


def erase_(images: Tensor, rectangles: np.ndarray | None) -> Tensor:
    """Write noise over the rectangles, in place.

    Args:
        images: B x C x H x W, normalized.
        rectangles: B x 5, rows of what `draw` gave.

    Returns:
        `images`.
    """
    if rectangles is None:
        return images
    generator = torch.Generator(images.device)
    for index in np.flatnonzero(rectangles[:, 2]):
        top, left, height, width, seed = rectangles[index].tolist()
        generator.manual_seed(seed)
        noise = torch.randn(
            (images.shape[1], height, width), generator=generator, device=images.device
        )
        images[index, :, top : top + height, left : left + width] = noise
    return images
