"""`eval`: the accuracy of a compressed or a dense model on one split."""

import argparse
import json
import math

import torch
from torch import nn

import adacomcat
from adacomcat import parallel
from adacomcat.checks import NonFiniteLoss, require
from adacomcat.cli.console import Display
from adacomcat.cli.process import is_first
from adacomcat.cli.request import data_config, eval_config, published_of
from adacomcat.cli.sources import comcat_model, comcat_sizes, origin_of
from adacomcat.cli.train import warn_of_leakage
from adacomcat.cli.workers import Workers
from adacomcat.config import PhaseConfig, TrialConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.data import Splits, build_splits, make_loader
from adacomcat.files import default_cache
from adacomcat.models.registry import input_shape
from adacomcat.training import dense_model
from adacomcat.training.epoch import evaluate


def evaluate_command(arguments: argparse.Namespace, display: Display) -> None:
    """Evaluate in float32, and print accuracy, loss and cost.

    Raises:
        ValueError: a model, data or a setting that cannot be used.
    """
    config = _config(arguments)
    workers = Workers(arguments.device)
    device = workers.device
    with display.shown():
        splits = build_splits(config.data)
        with workers.first_of_machine_first():
            model = _model(arguments, config, splits, device).to(device)
        _check_fit(model, splits)
        split = getattr(splits, arguments.split)
        with workers.together():
            loader = make_loader(
                split,
                config.data,
                batch_size=arguments.batch_size,
                seed=0,
                train=False,
                rank=parallel.rank(),
                world=parallel.world(),
                device=device,
                runtime=config.runtime,
            )
            batches = display.counted(loader, arguments.split, len(loader))
            accuracy, loss = evaluate(model, batches, PhaseConfig())
            skipped = torch.tensor(loader.unreadable, device=device)
            unreadable = int(parallel.sum_over_workers_(skipped))
    if not math.isfinite(loss):
        raise NonFiniteLoss(f"{arguments.split}: the loss is {loss}: {_cause(model)}")
    # With `data.val_from` test, the images of val are those of test.
    leakage = splits.leakage if split.sha256 == splits.test.sha256 else ()
    content = {
        "split": arguments.split,
        "images": len(split) - unreadable,
        "accuracy": accuracy,
        "loss": loss,
        "unreadable": unreadable,
        "leakage": list(leakage),
        "params": count_params(model),
        "macs": count_macs(model, input_shape(model)),
    }
    if arguments.json and is_first():
        print(json.dumps(content, indent=2))
    if arguments.json:
        return
    display.say(
        f"{arguments.split}: accuracy {accuracy:.2%}, loss {loss:.4f}, {content['images']:,} images"
    )
    display.say(f"parameters {content['params']:,}, MACs {content['macs']:,}")
    warn_of_leakage(leakage, display)


def _check_fit(model: nn.Module, splits: Splits) -> None:
    """Raise unless a model is for such images and as many classes.

    Raises:
        ValueError: names both numbers.
    """
    classes = model.num_classes
    allowed = f"{classes}, those of the model"
    require(splits.num_classes == classes, "--data: classes", splits.num_classes, allowed)
    shape = (splits.in_chans, splits.image_size, splits.image_size)
    allowed = f"{input_shape(model)}, those of the model (data.image_size)"
    require(
        shape == input_shape(model), "--data: images of channels, height, width", shape, allowed
    )


def _cause(model: nn.Module) -> str:
    """Possible causes of a non-finite loss, in words."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name} has values that are not finite"
    return "the logits are not finite, though all weights are"


def _config(arguments: argparse.Namespace) -> TrialConfig:
    """Data, and the dense model where it is that one."""
    if arguments.source is None:
        foreign = arguments.comcat_dir is not None
        return eval_config(arguments, comcat_sizes(arguments.comcat_dir) if foreign else {})
    return data_config(arguments, origin_of(arguments.source))


def _model(
    arguments: argparse.Namespace, config: TrialConfig, splits: Splits, device: str
) -> nn.Module:
    if arguments.source is not None:
        return adacomcat.load(arguments.source)
    if arguments.comcat_dir is not None:
        name, options = config.model.name, dict(config.model.options)
        return comcat_model(arguments.comcat_dir, name, options)[0]
    model = dense_model(config, splits, default_cache(), device=device)
    if arguments.published_rate is not None:
        published_of(arguments).insert_(model, config.model.name, arguments.published_rate)
    return model
