"""The dense model of a workload, trained once, cached, and shared by all trials."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from adacomcat.checks import require
from adacomcat.config import TrialConfig
from adacomcat.data import Splits, make_loader
from adacomcat.files import CACHE_VARIABLE, check_writable
from adacomcat.models.registry import create_model, input_shape
from adacomcat.models.weights import load_dense_weights_, weights_identity
from adacomcat.seeds import seed_everything
from adacomcat.training.checkpoint import CHECKPOINT_FILE, load_state, save_state
from adacomcat.training.epoch import evaluate, train_epoch
from adacomcat.training.optim import set_learning_rate
from adacomcat.training.phase import Phase

Progress = Callable[[dict[str, Any]], None]
"""Takes a row an epoch: epoch, epochs, loss, val_acc."""


def dense_key(config: TrialConfig, splits: Splits) -> str:
    """A hash of all that determines the dense weights: data, model, recipe, split images.

    Weights that are given count by their content, not by their place.

    Raises:
        ValueError: a file of weights that is not there, or has another hash than `dense.sha256`.
    """
    dense = config.dense.to_json() | {"weights": weights_identity(config.dense)}
    # What is read from where changes no weights, and a dense recipe is never frozen.
    del dense["sha256"], dense["recipe"]["frozen"]
    data = config.data.to_json()
    # Where images come from and in what order labels count: the hashes of the splits tell both.
    del data["root"], data["class_order"], data["label_names"]
    parts = {
        "data": data,
        "model": config.model.to_json(),
        "dense": dense,
        "splits": dict(splits.hashes),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def build_dense(config: TrialConfig, splits: Splits) -> nn.Module:
    """The workload's dense model before any training, in the sizes of its data.

    Raises:
        ValueError: unknown model or option, or sizes that do not go together.
    """
    model = create_model(
        config.model,
        num_classes=splits.num_classes,
        in_chans=splits.in_chans,
        image_size=splits.image_size,
    )
    channels, *sides = input_shape(model)
    sizes = {
        "num_classes": (model.num_classes, splits.num_classes),
        "in_chans": (channels, splits.in_chans),
        "img_size": (sides, [splits.image_size] * 2),
    }
    for option, (made, wanted) in sizes.items():
        got = config.model.options.get(option, made)
        require(made == wanted, f"model.options.{option}", got, f"{wanted}, that of the data")
    return model


def is_cached(config: TrialConfig, splits: Splits, cache: Path) -> bool:
    """Whether `dense_model` would have nothing to train.

    Raises:
        ValueError: as `dense_key`.
    """
    return _is_given(config) or (_folder(config, splits, cache) / CHECKPOINT_FILE).is_file()


def dense_model(
    config: TrialConfig,
    splits: Splits,
    cache: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> nn.Module:
    """The workload's dense model: out of the cache, or given, or trained, by `config.dense`.

    Weights that are given and trained no further are read where they are and not cached. Trains in
    one process, and is not made for two that train the same model at once: the study calls it
    before its trials start.

    Args:
        config: data, model and recipe; nothing else of it matters here.
        splits: of `config.data`; the model is trained on `train`.
        cache: folder of cached models, one folder each by `dense_key`, and of downloads.
        device: to train on; the model comes back on it.
        progress: told after each epoch; not called when there is nothing to train.

    Raises:
        ValueError: a damaged cache entry (names the file), a model that does not fit the data, or
            weights that do not fit the model.
    """
    seed_everything(config.dense.seed, "dense", "init")
    model = build_dense(config, splits).to(device)
    given = _is_given(config)
    folder = None if given else _folder(config, splits, cache)
    if folder is not None and (folder / CHECKPOINT_FILE).is_file():
        model.load_state_dict(load_state(folder)["model"])
        return model.eval()
    if config.dense.weights is not None:
        load_dense_weights_(model, config.dense, config.model, cache)
    if folder is not None:
        check_writable(folder, CACHE_VARIABLE)
        _train(model, config, splits, device, progress)
        save_state(folder, {"model": dict(model.state_dict()), "config": config.to_json()})
    return model.eval()


def _is_given(config: TrialConfig) -> bool:
    """Whether the weights come from elsewhere as they are."""
    return config.dense.weights is not None and config.dense.recipe.epochs == 0


def _folder(config: TrialConfig, splits: Splits, cache: Path) -> Path:
    return cache / f"dense-{dense_key(config, splits)}"


def _train(
    model: nn.Module, config: TrialConfig, splits: Splits, device: str, progress: Progress | None
) -> None:
    recipe, seed = config.dense.recipe, config.dense.seed
    common: dict[str, Any] = {
        "data": config.data,
        "seed": seed,
        "device": device,
        "runtime": config.runtime,
    }
    train = make_loader(
        splits.train,
        batch_size=recipe.batch_size,
        train=True,
        augment=True,
        **common,
    )
    val = make_loader(splits.val, batch_size=max(recipe.batch_size, 256), train=False, **common)
    phase = Phase(model, recipe)
    for epoch in range(recipe.epochs):
        set_learning_rate(phase.optimizer, recipe, epoch)
        seed_everything(seed, "dense", epoch)
        train.set_epoch(epoch)
        stats = train_epoch(phase, train, num_classes=splits.num_classes)
        if progress is not None:
            accuracy, _ = evaluate(phase.result, val, recipe)
            progress(
                {
                    "epoch": epoch,
                    "epochs": recipe.epochs,
                    "loss": stats.loss,
                    "val_acc": accuracy,
                }
            )
    phase.finish_()
