"""Where images come from and how they are cut into splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from adacomcat.checks import require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set and how it is cut into train, search, val and test."""

    name: str = "digits"
    """`digits`, `fashion_mnist`, `synthetic`, `imagefolder` or `timm/NAME`."""
    root: str | None = None
    """Folder of the data; None: where the data set looks by itself."""
    class_order: Literal["natural", "alphabetical"] = "natural"
    """Order of the classes of a folder, which numbers them: `natural` as in timm (9 before 10),
    `alphabetical` as in torchvision (10 before 9)."""
    label_names: tuple[str, ...] | None = None
    """Names of the classes by label, where a model knows them; the data must have the same."""
    search_from: Literal["train", "test"] = "train"
    """`train`: a slice that only the rank search sees; `test`: the images that are reported on, as
    in the reference, which leaks them into the search. The slice is cut off train all the same, so
    that this changes one thing; `search_fraction` 0 leaves it in."""
    search_fraction: float = 0.15
    """Share of the training images that is kept for the rank search."""
    search_images: int | None = None
    """So many images instead of that share."""
    val_from: Literal["train", "test"] = "train"
    """Likewise for the selection of models and `val_fraction`."""
    val_fraction: float = 0.10
    """Share of the training images that is kept for the selection of models."""
    test_fraction: float = 0.25
    """Share of all images that only the report sees; unused where the set has a test split."""
    split_seed: int = 0
    """Seeds the split; the same for every trial, so that all seeds report on the same images."""
    max_images: int | None = None
    """Keep at most this many images (stratified) of each source split; None: all."""
    augment: Literal["none", "affine", "crop_flip", "resized_crop"] = "none"
    """`affine`: small rotations, shifts, scales; `crop_flip`: padded crop and horizontal flip;
    `resized_crop`: a random part of the image, scaled bicubically, and horizontal flip."""
    auto_augment: str | None = None
    """A policy of timm, for instance `rand-m9-mstd0.5-inc1`; for images decoded from files."""
    random_erasing: float = 0.0
    """Probability that noise covers a rectangle of a training image."""
    repeats: int = 1
    """How often an epoch shows each training image it draws, each time augmented anew; the epoch
    stays as long (repeated augmentation, arXiv 1902.05509)."""
    image_size: int | None = None
    """Side in pixels; None: the data set's own."""
    mean: tuple[float, ...] | None = None
    """Subtracted from pixels in 0..1, one a channel; None: of the training images that are held in
    memory, ImageNet's for those decoded from files."""
    std: tuple[float, ...] | None = None
    """What the rest is divided by, likewise."""
    crop_pct: float | None = None
    """Of images decoded from files: `image_size` over the side that an image is resized to before
    its crop; None: 0.875. This and the next two are timm's of a model, see `Preprocessing`."""
    crop_mode: Literal["center", "squash", "border"] | None = None
    """None: center."""
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    """None: bicubic."""
    num_workers: int = 0
    """Loader processes of data read from disk; data held in memory needs none."""
    skip_unreadable: bool = False
    """Leave out images that cannot be decoded, and count them; otherwise the first one is an
    error."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this data set knows, for instance `num_classes` of `synthetic`."""

    def __post_init__(self) -> None:
        for name, origin in (
            ("search_fraction", self.search_from),
            ("val_fraction", self.val_from),
            ("test_fraction", "train"),
        ):
            value = getattr(self, name)
            if origin == "test" and value == 0:
                continue
            require(0 < value < 1, f"data.{name}", value, "a share between 0 and 1")
        total = self.search_fraction + self.val_fraction
        require(total < 1, "data.search_fraction + data.val_fraction", total, "below 1")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "0 or more")
        for name in ("max_images", "search_images"):
            value = getattr(self, name)
            require(value is None or value > 0, f"data.{name}", value, "1 or more, or None")
        for name in ("search_from", "val_from"):
            value = getattr(self, name)
            require(value in ("train", "test"), f"data.{name}", value, "train, test")
        require(
            0 <= self.random_erasing <= 1,
            "data.random_erasing",
            self.random_erasing,
            "a probability",
        )
        require(self.repeats >= 1, "data.repeats", self.repeats, "1 or more")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                listed = isinstance(value, list | tuple)
                require(listed, f"data.{name}", value, "a list with one number a channel")
                # JSON has no tuples: a configuration read back must equal the one written.
                object.__setattr__(self, name, tuple(float(part) for part in value))
        if self.label_names is not None:
            object.__setattr__(self, "label_names", tuple(self.label_names))
        orders = ("natural", "alphabetical")
        require(self.class_order in orders, "data.class_order", self.class_order, ", ".join(orders))
        if self.crop_pct is not None:
            require(self.crop_pct > 0, "data.crop_pct", self.crop_pct, "above 0")
        require(self.std is None or min(self.std) > 0, "data.std", self.std, "numbers above 0")

    @property
    def leakage(self) -> tuple[str, ...]:
        """What sees the images that are reported on: none of `search` and `selection`, or some."""
        uses = {"search": self.search_from, "selection": self.val_from}
        return tuple(use for use, origin in uses.items() if origin == "test")


def leakage_note(uses: Sequence[str]) -> str:
    """The warning beside an accuracy, for uses of `Splits.leakage`; empty where nothing leaks."""
    words = {
        "training": "the training",
        "search": "the rank search",
        "selection": "the selection of models",
    }
    seen = " and ".join(words[use] for use in uses)
    return f"LEAKAGE: {seen} saw the images that are reported on" if uses else ""
