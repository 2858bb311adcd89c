"""Small data sets written to disk, with pixels that the tests know."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteFolder = Callable[..., Path]


@pytest.fixture
def image_folder(tmp_path: Path) -> WriteFolder:
    """Writes root/{train,val}/CLASS/*.png of random pixels and uneven sizes; returns root."""

    def write(
        classes: tuple[str, ...] = ("ant", "bee"),
        per_class: int = 8,
        val: int = 3,
        where: str = "images",
    ) -> Path:
        rng = np.random.default_rng(0)
        for part, count in (("train", per_class), ("val", val)):
            for name in classes:
                folder = tmp_path / where / part / name
                folder.mkdir(parents=True)
                for i in range(count):
                    shape = (int(rng.integers(20, 40)), int(rng.integers(20, 40)), 3)
                    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
        return tmp_path / where

    return write
