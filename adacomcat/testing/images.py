"""Folders of small JPEGs in ImageNet's layout, with learnable classes."""

from pathlib import Path

import numpy as np
from PIL import Image

COARSE = 5
"""Side of the pattern that is a class, before it is scaled up."""
PATTERN, VARIATION = 70.0, 30.0
"""Levels of 256: how far the classes are apart, and how far the images of one."""


def write_image_folder(
    root: Path, *, classes: int, train: int, val: int, side: int, seed: int = 0
) -> Path:
    """Write `root/train/CLASS/N.jpg` and `root/val/CLASS/N.jpg`.

    A class is a smooth pattern of colors; an image of it varies the pattern. Widths and heights
    are uneven, `side` or up to a half more. A thousand images of 224 pixels take seconds.

    Args:
        root: made if it is not there.
        classes: how many.
        train: images of each class in train/.
        val: images of each class in val/.
        side: of the shorter side, in pixels.
        seed: of everything; the same files each time.

    Returns:
        `root`.
    """
    rng = np.random.default_rng(seed)
    shape = (COARSE, COARSE, 3)
    for label, pattern in enumerate(rng.normal(128, PATTERN, (classes, *shape))):
        for part, count in (("train", train), ("val", val)):
            folder = root / part / f"class_{label:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                coarse = pattern + rng.normal(0, VARIATION, shape)
                longer = int(side * rng.uniform(1, 1.5))
                size = (longer, side) if rng.random() < 0.5 else (side, longer)
                image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
                image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:04d}.jpg")
    return root
