"""`trace`: the patches of an image that each token stands for, block by block, as a file.

The file is NumPy's .npz, for `analysis/fig_token_sources.py`; nothing in it needs a pickle:

    images     (I, H, W, C), bytes: what the model saw, before it was normalized
    names      (I,): of the files
    tokens     (I, L, P): by block, the token that stands for a patch; -1: the patch was dropped
    counts     (L, 3): patches that come in, that pruning leaves, and that merging leaves
    model, container: timm's name, and that of the module whose blocks these are

Shapes: I images, C channels, H x W pixels, L blocks, P patches, N tokens with the prefix tokens.
A token keeps its name, which is a number of a patch, from block to block: of tokens that are merged
the name of that which stands for most patches goes on.
"""

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import adacomcat
from adacomcat.checks import require
from adacomcat.cli.console import Display
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.data.transforms import evaluation
from adacomcat.files import atomic_write_bytes
from adacomcat.io.directory import read_config
from adacomcat.io.run import Run
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.models.registry import family_of, input_shape

MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's name for such images."""


def trace(arguments: argparse.Namespace, display: Display) -> None:
    """Run the images through the model and write the fate of their patches.

    Raises:
        ValueError: a directory that is damaged, foreign or not finished, a model that keeps all its
            tokens, or a file that is no image.
    """
    Run(arguments.source).require_finished()
    name = read_config(arguments.source)["architecture"]
    model = adacomcat.load(arguments.source)
    container, blocks = token_blocks(model)
    images = read_images(arguments.image, model)
    masks = traced(model, blocks, normalized(images, model))
    found: dict[str, Any] = {
        "images": images.permute(0, 2, 3, 1).numpy(),
        "names": np.array([path.name for path in arguments.image]),
        "tokens": named(masks, blocks.form.prefix),
        "counts": patch_counts(blocks),
        "model": np.array(name),
        "container": np.array(container),
    }
    content = io.BytesIO()
    np.savez_compressed(content, **found)
    atomic_write_bytes(arguments.output, content.getvalue())
    left = found["counts"][-1, -1]
    display.say(f"{len(images)} images, {left} of {blocks.form.patches} patches left at the end")
    display.say(f"written to {arguments.output}")


def token_blocks(model: nn.Module) -> tuple[str, TokenBlocks]:
    """The module of a model that drops tokens, with its name.

    Raises:
        ValueError: there is none.
    """
    for name, module in model.named_modules():
        if isinstance(module, TokenBlocks):
            return name, module
    require(False, "--from", "a model that keeps all its tokens", "one of a method that drops some")
    raise AssertionError


def read_images(paths: Sequence[Path], model: nn.Module) -> Tensor:
    """Images as a model is evaluated on them: resized and cropped, bytes (I, C, H, W).

    Raises:
        ValueError: a file that is no image (it is named), or a model for images of other channels.
    """
    channels, height, width = input_shape(model)
    require(channels in MODES, "--from: channels of an image", channels, "1 or 3")
    assert height == width, (height, width)
    known, keys = _images_of(model), ("crop_pct", "crop_mode", "interpolation")
    given = {key: known[key] for key in keys if known.get(key) is not None}
    resized = evaluation(Preprocessing(image_size=height, **given))
    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                found.append(resized(image.convert(MODES[channels])))
        # Decoders raise anything: OSError, SyntaxError, struct.error ...
        except Exception as error:
            raise ValueError(f"--image: got {str(path)!r}, allowed: an image ({error})") from None
    return torch.stack(found)


def normalized(images: Tensor, model: nn.Module) -> Tensor:
    """Bytes (I, C, H, W) as the model takes them.

    Raises:
        ValueError: the model does not say how.
    """
    known, channels = _images_of(model), images.shape[1]
    levels = []
    for name in ("mean", "std"):
        value = known.get(name)
        sound = value is not None and len(value) == channels
        require(sound, f"--from: pretrained_cfg.{name}", value, f"a number for {channels} channels")
        levels.append(torch.tensor(value).view(1, channels, 1, 1))
    mean, std = levels
    return (images.float() / 255 - mean) / std


@torch.no_grad()
def traced(model: nn.Module, blocks: TokenBlocks, images: Tensor) -> list[Tensor]:
    """Tokens represented by each surviving token, block by block: (I, N', N) each."""
    entered: list[Tensor] = []
    handle = blocks.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return blocks.trace(entered[0])


def named(masks: Sequence[Tensor], prefix: int) -> NDArray[np.int16]:
    """Index of the token that represents each patch, (I, L, P); -1 for a dropped patch.

    Args:
        masks: of `traced`.
        prefix: tokens in front that are no patches.
    """
    images, patches = len(masks[0]), masks[0].shape[2] - prefix
    names = np.full((images, len(masks), patches), -1, np.int16)
    for image in range(images):
        before = np.arange(patches, dtype=np.int16)
        for block, mask in enumerate(masks):
            for survivor in mask[image, :, prefix:].cpu().numpy() > 0:
                parts, sizes = np.unique(before[survivor], return_counts=True)
                if len(parts):
                    names[image, block, survivor] = parts[np.argmax(sizes)]
            before = names[image, block]
    return names


def patch_counts(blocks: TokenBlocks) -> NDArray[np.int64]:
    """Numbers of patches before a block, after pruning and after merging: (L, 3)."""
    form = blocks.form
    steps = blocks.rates.steps(form.tokens)
    return np.array([(s.before, s.pruned, s.after) for s in steps]) - form.prefix


def _images_of(model: nn.Module) -> Mapping[str, Any]:
    return family_of(model).preprocessing(model)
