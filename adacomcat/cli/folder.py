"""Recipe for a folder of images."""

import os
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from adacomcat import recipes
from adacomcat.checks import require
from adacomcat.cli.settings import Settings
from adacomcat.config import ModelConfig
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.methods.lowrank.recipe import PRETRAINED, imagenet_recipe, space
from adacomcat.methods.registry import DEFAULT
from adacomcat.models.registry import create_model, family_for, family_of

LARGE = 300_000
"""Number of training images from which on a folder is split like ImageNet."""
SEARCH_IMAGES, VAL_FRACTION = 50_000, 0.01
LOADERS = 8
"""Processes that load images, where there are as many cores."""


def folder_settings(model: ModelConfig, root: Path, image_size: int | None = None) -> Settings:
    """The recipe for a folder of images: DeiT's on ImageNet, as far as the folder allows.

    The published menus of ranks where there are any for the model's width and the classes, else
    fractions. A folder as large as ImageNet gives a search 50 000 images and selection 1 %; of a
    smaller one a search gets 15 % and selection 10 %, the defaults of `DataConfig`.

    Args:
        model: what is trained on it.
        root: has train/ and val/.
        image_size: side in pixels; None: what the model was made for.

    Raises:
        ValueError: an unknown model, or a folder that is missing.
    """
    require(root.is_dir(), "--data", str(root), "a folder with train/ and val/")
    plain = skeleton(model, image_size=image_size)
    train = root / "train"
    entries = os.scandir(train) if train.is_dir() else ()
    classes = [entry.path for entry in entries if entry.is_dir()]
    data: Settings = {
        "name": "imagefolder",
        "root": str(root),
        **recipes.deit_augmentation(),
        **images_of(plain, image_size),
    }
    files = (entry for folder in classes for entry in os.scandir(folder))
    if len(list(islice(files, LARGE))) == LARGE:
        data |= {"search_images": SEARCH_IMAGES, "val_fraction": VAL_FRACTION}
    options = {"drop_path_rate": 0.1, **model.options}
    return {
        "data": data,
        "runtime": {"num_workers": min(LOADERS, _cores())},
        "model": {"name": model.name, "options": options},
        "dense": {"recipe": {"epochs": 0}},
        "method": {
            "name": DEFAULT,
            "space": space(plain.num_features, len(classes)),
            **PRETRAINED,
        },
        **imagenet_recipe(base=plain.num_features >= 768),
    }


def skeleton(model: ModelConfig, *, num_classes: int = 1000, image_size: int | None = None) -> Any:
    """A model's modules without weights, on the meta device.

    Args:
        model: which one.
        num_classes: of its classifier.
        image_size: side in pixels; None: what models of this name are made for.

    Raises:
        ValueError: an unknown model or option, or sizes that do not go together.
    """
    with torch.device("meta"):
        side = image_size or family_for(model.name).image_size(model.name)
        return create_model(model, num_classes=num_classes, in_chans=3, image_size=side)


def images_of(plain: Any, image_size: int | None) -> Settings:
    """Preprocessing of the weights of this model."""
    known = family_of(plain).preprocessing(plain)
    return Preprocessing.of_model(known, image_size).settings()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
