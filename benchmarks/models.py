"""Models and batches for the benchmarks: timm models with random parameters."""

import argparse
from typing import Any

import timm
import torch
from timing import positive
from torch import Tensor

from adacomcat.checks import require
from adacomcat.config import BudgetConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.models.registry import input_shape
from adacomcat.testing.models import draw_parameters_


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Flags that cut a model down, to try a benchmark out."""
    parser.add_argument("--depth", type=positive, help="blocks (default: all of the model's)")
    parser.add_argument("--image-size", type=positive, help="pixels (default: the model's)")


def drawn_model(arguments: argparse.Namespace, **options: Any) -> Any:
    """The model of the flags, in evaluation mode; every call gives the same parameters.

    Raises:
        ValueError: timm has no such model.
    """
    require(timm.is_model(arguments.model), "--model", arguments.model, "one of timm")
    sizes = {"depth": arguments.depth, "img_size": arguments.image_size}
    options |= {name: size for name, size in sizes.items() if size is not None}
    model: Any = timm.create_model(arguments.model, pretrained=False, **options)
    draw_parameters_(model, 0)
    return model.to(arguments.device).eval()


def drawn_batch(model: Any, batch_size: int, device: str) -> tuple[Tensor, Tensor]:
    """Noise (B, C, H, W) and labels (B,); every call gives the same."""
    shape = (batch_size, *input_shape(model))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch_size) % model.num_classes
    return images.to(device), labels.to(device)


def published_space(model: Any) -> LowRank:
    """The method on ComCAT's menus, as the paper has them.

    Raises:
        ValueError: a width that has no menu.
    """
    return LowRank(model, LowRankConfig(space="paper", allow_larger=True))


def commit_by_default_(model: Any, reduction: float) -> None:
    """Factorize a model: all sites at one share of their full rank."""
    method = published_space(model)
    method.commit_(method.default_plan(method.budget(BudgetConfig(reduction=reduction))))
