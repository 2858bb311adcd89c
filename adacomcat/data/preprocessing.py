"""Preprocessing of images in an evaluation, as timm describes it in a model's `pretrained_cfg`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from adacomcat.checks import require

CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["bicubic", "bilinear", "nearest"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of images for a model.

    The defaults are DeiT's: the shorter side to 256 pixels, then the center 224.

    Attributes:
        in_chans: channels.
        image_size: height and width, in pixels.
        mean: subtracted from pixels in 0..1, one a channel.
        std: what the rest is divided by, one a channel.
        crop_pct: `image_size` over the side that an image is resized to before its crop.
        crop_mode: `center`: the shorter side is resized; `squash`: both sides, whatever the shape;
            `border`: the longer side, and the rest is padded.
        interpolation: of resizing.
    """

    in_chans: int = 3
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = getattr(self, name)
            allowed = f"{self.in_chans} numbers, one a channel"
            require(len(given) == self.in_chans, f"data.{name}", given, allowed)
        require(self.crop_pct > 0, "data.crop_pct", self.crop_pct, "above 0")
        for name, kind in (("crop_mode", CropMode), ("interpolation", Interpolation)):
            given, known = getattr(self, name), get_args(kind)
            require(given in known, f"data.{name}", given, ", ".join(known))

    @classmethod
    def of_model(cls, pretrained_cfg: Mapping[str, Any], image_size: int | None = None) -> Self:
        """The preprocessing that timm's `resolve_data_config` gives for a model.

        Args:
            pretrained_cfg: of the model, or stored in its directory.
            image_size: in place of the model's own.

        Raises:
            ValueError: an image that is not square, or a way of resizing that is not offered here.
        """
        from timm.data import resolve_data_config  # here, not above: timm.data takes long to import

        # timm refuses to resolve two empty mappings; None stands for "not given".
        known = resolve_data_config({"input_size": None}, pretrained_cfg=dict(pretrained_cfg))
        channels, *sides = known["input_size"]
        square = sides[0] == sides[1] or image_size is not None
        require(square, "model: input_size", tuple(known["input_size"]), "a square image")
        return cls(
            in_chans=channels,
            image_size=image_size or sides[0],
            mean=tuple(known["mean"]),
            std=tuple(known["std"]),
            crop_pct=known["crop_pct"],
            crop_mode=known["crop_mode"],
            interpolation=known["interpolation"],
        )

    def settings(self) -> dict[str, Any]:
        """The fields as settings of `DataConfig`; `in_chans` follows from the data."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "in_chans"}

    def to_pretrained_cfg(self) -> dict[str, Any]:
        """The entries of timm's `pretrained_cfg` that say the same."""
        size = (self.in_chans, self.image_size, self.image_size)
        own = {k: v for k, v in self.settings().items() if k != "image_size"}
        return {"input_size": size, **own}
