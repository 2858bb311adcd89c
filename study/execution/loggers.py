"""Ray's logging callbacks for TensorBoard, MLflow and Weights & Biases (`--log-to`)."""

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from adacomcat.checks import require

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""Name of a logger -> the package it needs."""
COPY_EVERY_S = "10"


def make_callbacks(names: Sequence[str], root: Path, experiment: str) -> list[tune.Callback]:
    """Callbacks for Tune, whose files Tune copies to the results directory every `COPY_EVERY_S`.

    Args:
        names: keys of `PACKAGES`; one given twice counts once.
        root: the results directory, absolute.
        experiment: name of the experiment.

    Raises:
        ValueError: a package that is not installed.
    """
    for name in names:
        spec = importlib.util.find_spec(PACKAGES[name])
        # A folder of that name, which W&B itself makes, is found too, but has no origin.
        there = spec is not None and spec.origin is not None
        require(there, "--log-to", name, f"with its package: pip install {PACKAGES[name]}")
        os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = COPY_EVERY_S
    return [_callback(name, root, experiment) for name in dict.fromkeys(names)]


def _callback(name: str, root: Path, experiment: str) -> tune.Callback:
    if name == "tensorboard":
        from ray.tune.logger import TBXLoggerCallback

        return TBXLoggerCallback()
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        return MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment)
    from ray.air.integrations.wandb import WandbLoggerCallback

    wandb: Any = importlib.import_module("wandb")
    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        # Otherwise Ray refuses to start; `wandb sync` uploads the logs later.
        os.environ.setdefault("WANDB_MODE", "offline")
    project = os.environ.get("WANDB_PROJECT", "adacomcat")
    mode = os.environ.get("WANDB_MODE", "online")
    return WandbLoggerCallback(project=project, group=experiment, mode=mode)
