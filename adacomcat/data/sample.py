"""Samples of image folders, for compression without training and its evaluation.

Shapes: B images of a batch, C channels, H x W pixels.
"""

import logging
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timm.utils import natural_key
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from adacomcat.checks import require
from adacomcat.config import DataConfig
from adacomcat.data.folders import in_order
from adacomcat.data.images import DecodedImages
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.data.source import file_part
from adacomcat.data.transforms import evaluation
from adacomcat.seeds import derive_seed

LOG = logging.getLogger("adacomcat")


@dataclass(frozen=True)
class ImageSample:
    """Images of a folder, decoded batch by batch.

    Attributes:
        images: undecoded.
        labels: one an image; zeros where the folder has none.
        spec: preprocessing of the model that is to see them.
        available: images in the folder.
    """

    images: DecodedImages
    labels: np.ndarray
    spec: Preprocessing
    available: int

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalized images (B, C, H, W) and labels (B,), in a fixed order.

        Where most images are smaller than the model's the log says so in the end.

        Raises:
            ValueError: an image that cannot be read or decoded; the message names it.
        """
        transform = evaluation(self.spec)
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.spec.mean, self.spec.std))

        def pixels(position: int) -> Tensor:
            try:
                decoded = self.images.read(position)
            except ValueError as error:
                # Folders of a data set are `data.root`; this one was given as images.
                raise ValueError(str(error).replace("data.root:", "images:", 1)) from error
            small.append(min(decoded.size) < self.spec.image_size)
            return (transform(decoded).float() / 255 - mean) / std

        small: list[bool] = []
        # Pillow decodes without the interpreter's lock.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, len(self), batch_size):
                places = range(start, min(start + batch_size, len(self)))
                images = torch.stack(list(threads.map(pixels, places)))
                yield images, torch.from_numpy(self.labels[start : places.stop])
        if sum(small) > len(small) / 2:
            LOG.warning(
                "%d of %d images are smaller than %d pixels, for which the model is made",
                *(sum(small), len(small), self.spec.image_size),
            )


def unlabeled_sample(folder: Path, spec: Preprocessing, *, count: int, seed: int) -> ImageSample:
    """Images drawn at random from a folder and its subfolders.

    Args:
        folder: flat, or with folders of any depth.
        spec: preprocessing of the model.
        count: images to draw; all, where there are fewer.
        seed: of the draw.

    Raises:
        ValueError: no such folder, or no images in it.
    """
    files = _image_files(folder)
    draw = random.Random(derive_seed(seed, "calibration images"))
    chosen = draw.sample(range(len(files)), min(count, len(files)))
    taken = [(files[place], 0) for place in sorted(chosen)]
    return _sample(taken, folder, spec, available=len(files))


def labeled_sample(
    folder: Path, spec: Preprocessing, *, classes: int, field: str = "images"
) -> ImageSample:
    """All images of a folder with one folder for each class.

    Labels follow the default order of classes, timm's; the log says where torchvision's differs.

    Args:
        folder: with one folder for each class.
        spec: preprocessing of the model.
        classes: of the model.
        field: where the user named the folder, for messages.

    Raises:
        ValueError: no such folder, or not one folder for each of the model's classes.
    """
    require(folder.is_dir(), field, str(folder), "a folder with one folder for each class")
    found_names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    names = in_order(found_names, DataConfig(name="imagefolder"))
    allowed = f"{classes} folders, as many as the model has classes"
    require(len(names) == classes, field, f"{len(names)} folders in {folder}", allowed)
    found = [(path, i) for i, name in enumerate(names) for path in _image_files(folder / name)]
    return _sample(found, folder, spec, available=len(found))


def _sample(
    files: Sequence[tuple[str, int]], folder: Path, spec: Preprocessing, *, available: int
) -> ImageSample:
    part = file_part(files, folder)
    assert isinstance(part.images, DecodedImages)
    return ImageSample(part.images, part.labels, spec, available)


def _image_files(folder: Path) -> Sequence[str]:
    require(folder.is_dir(), "images", str(folder), "a folder of images")
    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(IMG_EXTENSIONS)
    ]
    endings = ", ".join(IMG_EXTENSIONS)
    require(bool(found), "images", str(folder), f"a folder with images ({endings})")
    return sorted(found, key=natural_key)
