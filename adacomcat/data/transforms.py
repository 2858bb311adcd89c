"""Transforms of one decoded image, before its batch: size and, in training, augmentation.

The pipeline is DeiT's (Touvron et al., arXiv 2012.12877), which is timm's `create_transform`: a
random part of the image, a flip, a policy of timm; random erasing follows a batch at a time, in
`erasing`. What differs from timm's:

- The random part is scaled as bytes by PyTorch, three times as fast as Pillow; it rounds otherwise,
  so that colors differ by a level of 256, seldom by two.
- Posterizing to 0 bits gives black, as it does with a Pillow below 13, which refuses it.

Shapes: C channels, H x W pixels with H = W.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from adacomcat.checks import require
from adacomcat.config import DataConfig
from adacomcat.data.preprocessing import Preprocessing

SCALE = (0.08, 1.0)
"""Share of the area that `resized_crop` keeps, as DeiT."""
TRANSLATE_SHARE = 0.45
"""Share of the side; timm's largest shift in an automatic augmentation."""
POLICIES = "a policy of timm, for instance rand-m9-mstd0.5-inc1, original or augmix-m5-w4-d2"


def evaluation(spec: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform, without normalization: PIL image -> C x H x W bytes."""
    # Imported late: timm.data takes long to import, and most studies do not need it.
    from timm.data import create_transform

    built: Callable[[Image.Image], Tensor] = create_transform(
        spec.image_size,
        is_training=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        normalize=False,
    )
    return built


def training(data: DataConfig, spec: Preprocessing) -> v2.Compose | None:
    """The augmentation of an image on its own: PIL image -> C x H x W bytes.

    It draws from the global generators of Python, NumPy and PyTorch: see `borrowed_generators`.

    Args:
        data: `augment` and `auto_augment`.
        spec: of the evaluation, which also sizes an image without `resized_crop`; its mean fills
            what a policy leaves empty.

    Returns:
        None if `data` has no such augmentation.

    Raises:
        ValueError: a policy that timm does not know.
    """
    if data.augment != "resized_crop" and data.auto_augment is None:
        return None
    steps: list[Callable[..., Any]] = [evaluation(spec)]
    if data.augment == "resized_crop":
        mode = v2.InterpolationMode(spec.interpolation)
        crop = v2.RandomResizedCrop(
            spec.image_size, scale=SCALE, interpolation=mode, antialias=True
        )
        steps = [v2.PILToTensor(), crop, v2.RandomHorizontalFlip()]
    if data.auto_augment is not None:
        steps += [v2.ToPILImage(), policy(data.auto_augment, spec), v2.PILToTensor()]
    return v2.Compose(steps)


def policy(name: str, spec: Preprocessing) -> Callable[[Image.Image], Image.Image]:
    """An automatic augmentation of timm, with the settings of timm's `create_transform`.

    Raises:
        ValueError: timm does not know it.
    """
    # Imported late: timm.data is heavy, and most studies do not need it.
    from timm.data import auto_augment as timm_augment
    from timm.data.transforms import str_to_pil_interp

    builders = {
        "rand": timm_augment.rand_augment_transform,
        "augmix": timm_augment.augment_and_mix_transform,
    }
    settings: dict[str, Any] = {
        "translate_const": int(spec.image_size * TRANSLATE_SHARE),
        "img_mean": tuple(min(255, round(255 * mean)) for mean in spec.mean),
        "interpolation": str_to_pil_interp(spec.interpolation),
    }
    family, *sections = name.split("-")
    # timm passes over a section without a number, and trains with another policy than was meant.
    meant = all(section.startswith("t") or re.search(r"\d", section) for section in sections)
    require(meant, "data.auto_augment", name, POLICIES)
    if family == "augmix":
        settings["translate_pct"] = 0.3
    try:
        build = builders.get(family, timm_augment.auto_augment_transform)
        chosen = build(name, settings)
    except (AssertionError, ValueError) as error:
        raise ValueError(f"data.auto_augment: got {name!r}, allowed: {POLICIES}") from error
    for operation in _operations(chosen):
        if operation.aug_fn is timm_augment.posterize:
            operation.aug_fn = _posterize
    return chosen


def _operations(chosen: Any) -> Iterator[Any]:
    """Every single operation of a policy: timm keeps a list, or a list of lists."""
    for entry in getattr(chosen, "ops", None) or chosen.policy:
        yield from entry if isinstance(entry, list) else (entry,)


def _posterize(image: Image.Image, bits_to_keep: int, **settings: Any) -> Image.Image:
    from timm.data.auto_augment import posterize

    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return posterize(image, bits_to_keep, **settings)


@contextmanager
def borrowed_generators() -> Iterator[Callable[[int], None]]:
    """Use the global random generators, which the libraries' augmentations draw from.

    Yields:
        a function that seeds all of them for one image, with a number from 0 to 2 ** 63 - 1; they
        are as before when the block ends.
    """
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def reseed(seed: int) -> None:
        random.seed(seed)
        # Python's generator is of the same kind: with the same key the two would give the same
        # numbers, while a policy takes those of one to be independent of the other's.
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32, 1])
        # Only the CPU's: torch.manual_seed would wake the accelerator in every loader process.
        torch.default_generator.manual_seed(seed)

    try:
        yield reseed
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)


def check_in_memory(data: DataConfig) -> None:
    """Raise if `data` has augmentations that need images decoded one by one.

    Raises:
        ValueError: names the setting.
    """
    allowed = f"{{}} for {data.name}, whose images are held in memory"
    require(
        data.augment != "resized_crop",
        "data.augment",
        data.augment,
        allowed.format("none, affine or crop_flip"),
    )
    require(
        data.auto_augment is None, "data.auto_augment", data.auto_augment, allowed.format("None")
    )
