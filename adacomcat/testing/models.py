"""Tiny vision transformers for tests."""

from typing import Any

import timm
import torch
from timm.models.metaformer import (
    Attention,
    LayerNorm2dNoBias,
    LayerNormNoBias,
    MetaFormer,
    SepConv,
)
from torch import Tensor, nn


def tiny_vit(name: str = "vit_tiny_patch16_224", *, seed: int = 0, **options: Any) -> nn.Module:
    """A timm vision transformer in evaluation mode: 16 x 16 images, 2 blocks, 4 heads, 10 classes.

    timm starts biases at zero and weights small: attention is nearly uniform and a lost bias would
    not show. Here everything is drawn anew: no bias is zero, and attention has preferences.

    Args:
        name: a name of `timm.list_models()`.
        seed: of all parameters.
        options: keyword arguments of `timm.create_model`, in place of the sizes above.
    """
    sizes: dict[str, Any] = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "num_classes": 10,
    }
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(name, pretrained=False, **(sizes | options))
    draw_parameters_(model, seed)
    return model.eval()


def tiny_caformer(*, seed: int = 0, side: int = 64, **options: Any) -> nn.Module:
    """A CAFormer in evaluation mode: 3-channel images, 4 blocks in the third stage, 10 classes.

    timm's named ones come in their full sizes alone.

    Args:
        seed: of all parameters.
        side: pixels of an image; tokens of the third stage are (side / 16) squared.
        options: of timm's `MetaFormer`, in place of the sizes here.
    """
    sizes: dict[str, Any] = {
        "depths": [1, 1, 4, 2],
        "dims": [16, 32, 64, 96],
        "num_classes": 10,
        "token_mixers": [SepConv, SepConv, Attention, Attention],
        "norm_layers": [LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2,
    }
    with torch.random.fork_rng(devices=[]):
        model: Any = MetaFormer(**(sizes | options))
    model.pretrained_cfg = {"input_size": (3, side, side)}
    draw_parameters_(model, seed)
    assert isinstance(model, nn.Module)
    return model.eval()


@torch.no_grad()
def draw_parameters_(model: nn.Module, seed: int) -> None:
    """Draw all parameters anew: matrices keep the size of their input, gains are near one."""
    source = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=source).to(parameter)
        if parameter.ndim > 1:
            rows = parameter[0].numel() if name.endswith("weight") else 1
            parameter.copy_(noise / rows**0.5)
        elif name.endswith(("weight", "gamma", "scale")):
            parameter.copy_(1 + 0.3 * noise)
        else:
            parameter.copy_(0.5 * noise)


def tiny_images(count: int = 8, *, side: int = 16, seed: int = 0) -> Tensor:
    """Noise of shape (count, 3, side, side)."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=source)
