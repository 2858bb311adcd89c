"""Configuration of the data set, its splits and its augmentation."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from adacomcat.checks import require
from adacomcat.config.base import Config

Share = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Config):
    """A data set and how it is cut into train, search, val and test."""

    place: ClassVar[str] = "data"

    name: str = "digits"
    """`digits`, `fashion_mnist`, `synthetic`, `imagefolder` or `timm/NAME`."""
    root: str | None = None
    """Folder of the data; None: where the data set looks by itself."""
    class_order: Literal["natural", "alphabetical"] = "natural"
    """Order of the classes of a folder, which numbers them: `natural` as in timm (9 before 10),
    `alphabetical` as in torchvision (10 before 9)."""
    label_names: tuple[str, ...] | None = None
    """Class names by label, if a model defines them; the data must have the same names."""
    search_from: Literal["train", "test"] = "train"
    """`train`: a slice that only the rank search sees; `test`: the images that are reported on, as
    in the reference, which leaks them into the search. The slice is cut off train all the same, so
    that this changes one thing; `search_fraction` 0 leaves it in."""
    search_fraction: Share = 0.15
    """Share of the training images that is kept for the rank search."""
    search_images: PositiveInt | None = None
    """Number of images for the rank search; replaces `search_fraction`."""
    val_from: Literal["train", "test"] = "train"
    """Source of the images for model selection; as `search_from`, with `val_fraction`."""
    val_fraction: Share = 0.10
    """Share of the training images that is kept for the selection of models."""
    test_fraction: float = Field(default=0.25, gt=0, lt=1)
    """Share of all images that only the report sees; unused where the set has a test split."""
    split_seed: NonNegativeInt = 0
    """Seed of the split; the same for every trial, so that all seeds report on the same images."""
    max_images: PositiveInt | None = None
    """Keep at most this many images (stratified) of each source split; None: all."""
    augment: Literal["none", "affine", "crop_flip", "resized_crop"] = "none"
    """`affine`: small rotations, shifts, scales; `crop_flip`: padded crop and horizontal flip;
    `resized_crop`: a random part of the image, scaled bicubically, and horizontal flip."""
    auto_augment: str | None = None
    """A policy of timm, for instance `rand-m9-mstd0.5-inc1`; for images decoded from files."""
    random_erasing: float = Field(default=0.0, ge=0, le=1)
    """Probability that noise covers a rectangle of a training image."""
    repeats: int = Field(default=1, ge=1, le=1000)
    """Differently augmented copies of each training image that an epoch draws; the length of the
    epoch does not change (repeated augmentation, arXiv 1902.05509)."""
    image_size: int | None = Field(default=None, ge=1, le=10_000)
    """Side in pixels; None: the data set's own."""
    mean: tuple[float, ...] | None = None
    """Mean of pixels in 0..1 per channel, which is subtracted; None: that of the training images if
    they are in memory, ImageNet's for images decoded from files."""
    std: tuple[PositiveFloat, ...] | None = None
    """Standard deviation of pixels per channel; None as for `mean`."""
    crop_pct: float | None = Field(default=None, ge=0.1, le=2)
    """Ratio of `image_size` to the side before the crop, for images decoded from files; None:
    0.875. This and the next two fields follow timm's `pretrained_cfg`, see `Preprocessing`."""
    crop_mode: Literal["center", "squash", "border"] | None = None
    """None: center."""
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    """None: bicubic."""
    options: Mapping[str, Any] = {}
    """Options of this data set, for instance `num_classes` of `synthetic`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        shares = (
            ("search_fraction", self.search_fraction, self.search_from),
            ("val_fraction", self.val_fraction, self.val_from),
        )
        for name, share, origin in shares:
            require(share > 0 or origin == "test", name, share, "a share between 0 and 1")
        total = self.search_fraction + self.val_fraction
        require(total < 1, "search_fraction", total, "below 1 together with val_fraction")
        return self

    @property
    def leakage(self) -> tuple[str, ...]:
        """Uses of the reported images elsewhere: none, or some of `search` and `selection`."""
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
