"""The dense model of a workload: trained once, cached by what determines it, shared by all
trials."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from adacomcat.config import TrialConfig
from adacomcat.data import Splits, make_loader
from adacomcat.interop.timm import create_model
from adacomcat.seeds import seed_everything
from adacomcat.training.epoch import evaluate, train_epoch
from adacomcat.training.optim import build_optimizer, set_learning_rate
from adacomcat.training.state import CHECKPOINT_FILE, load_state, save_state

Progress = Callable[[dict[str, Any]], None]
"""Takes a row an epoch: epoch, epochs, loss, val_acc."""


def dense_key(config: TrialConfig, splits: Splits) -> str:
    """A hash of all that determines the dense weights: data, model, recipe, split images."""
    parts = {
        "data": asdict(config.data),
        "model": asdict(config.model),
        "dense": asdict(config.dense),
        "splits": dict(splits.hashes),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def dense_model(
    config: TrialConfig,
    splits: Splits,
    cache: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> nn.Module:
    """The workload's dense model, out of the cache or trained by `config.dense`.

    Trains in one process, and is not made for two that train the same model at once: the study
        calls it before its trials start.

    Args:
        config: data, model and recipe; nothing else of it matters here.
        splits: of `config.data`; the model is trained on `train`.
        cache: folder of cached models, one folder each by `dense_key`.
        device: to train on; the model comes back on it.
        progress: told after each epoch; not called when the cache has the model.

    Raises:
        ValueError: a damaged cache entry (names the file), or a model that does not fit the data.
    """
    folder = cache / f"dense-{dense_key(config, splits)}"
    seed_everything(config.dense.seed, "dense", "init")
    model = create_model(
        config.model,
        num_classes=splits.num_classes,
        in_chans=splits.in_chans,
        image_size=splits.image_size,
    ).to(device)
    if (folder / CHECKPOINT_FILE).is_file():
        model.load_state_dict(load_state(folder)["model"])
        return model.eval()
    _train(model, config, splits, device, progress)
    save_state(folder, {"model": dict(model.state_dict()), "config": config.to_json()})
    return model.eval()


def _train(
    model: nn.Module, config: TrialConfig, splits: Splits, device: str, progress: Progress | None
) -> None:
    recipe, seed = config.dense.recipe, config.dense.seed
    workers = config.data.num_workers
    common: dict[str, Any] = {"seed": seed, "device": device, "num_workers": workers}
    train = make_loader(
        splits.train,
        batch_size=recipe.batch_size,
        train=True,
        augment=config.data.augment,
        **common,
    )
    val = make_loader(splits.val, batch_size=max(recipe.batch_size, 256), train=False, **common)
    optimizer = build_optimizer(model, recipe)
    for epoch in range(recipe.epochs):
        set_learning_rate(optimizer, recipe, epoch)
        seed_everything(seed, "dense", epoch)
        train.set_epoch(epoch)
        stats = train_epoch(
            model, train, optimizer, recipe,
            num_classes=splits.num_classes, distiller=None, align_weight=0.0,
        )  # fmt: skip
        if progress is not None:
            accuracy, _ = evaluate(model, val, recipe)
            progress(
                {
                    "epoch": epoch,
                    "epochs": recipe.epochs,
                    "loss": stats.loss,
                    "val_acc": accuracy,
                }
            )
