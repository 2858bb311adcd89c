"""Upper bound on the time of a study, from a few steps of its most expensive arm."""

import copy
import dataclasses
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adacomcat.config import TrialConfig
from adacomcat.data import Split
from adacomcat.files import default_cache
from adacomcat.schedule import build_schedule
from adacomcat.training import Trial
from adacomcat.training.dense import is_cached
from study.execution.body import untrained
from study.execution.placement import Placement
from study.spec.expand import RESOLVED, expand
from study.spec.schema import Experiment

STEPS = 4
"""Batches of training and of a search that are timed."""
EVAL_IMAGES = 512


def estimate(experiment: Experiment, placement: Placement) -> str:
    """Time the arm with the most epochs and searches on this machine, and multiply.

    The result ignores early stopping, finished trials, and the overhead of Ray.

    Raises:
        ValueError: a setting that the data, the model, the method or the budget does not allow.
    """
    specs = expand(experiment)
    spec = max(specs, key=lambda spec: _size(spec.trial_config()))
    threads = torch.get_num_threads()
    torch.set_num_threads(placement.threads)
    try:
        trial_s, dense_s = measure(spec.trial_config(), placement)
    finally:
        torch.set_num_threads(threads)
    suggested = experiment.exploration.samples if experiment.exploration else 0
    trials = len(specs) + suggested * len(experiment.seeds)
    total_s = -(-trials // placement.concurrent) * trial_s + dense_s
    return (
        f"estimate: at most about {_clock(total_s)}, if each of {trials} trials takes as long as "
        f"one of {spec.label!r}: {_clock(trial_s)}; training the dense model: {_clock(dense_s)}"
    )


def measure(config: TrialConfig, placement: Placement) -> tuple[float, float]:
    """Seconds of a trial and of training its dense model, unless that is cached.

    Two epochs of the search phase, a search and an epoch of the finetune phase run on `STEPS`
    batches, and are scaled to the whole splits.
    """
    started = time.perf_counter()
    whole = untrained(config, placement.device)
    start_s = time.perf_counter() - started
    batch = max(config.search_phase.batch_size, config.finetune.batch_size)
    full, search = whole.splits, config.search
    cut = dataclasses.replace(
        full,
        train=_cut(full.train, STEPS * batch),
        search=_cut(full.search, STEPS * search.batch_size),
        val=_cut(full.val, EVAL_IMAGES),
        test=_cut(full.test, 1),
    )
    short = config.replace(
        schedule={"kind": "explicit", "epochs": [1]},
        search=search.replace(steps=None, images=None, stable_steps=None),
        search_phase=config.search_phase.replace(epochs=2),
        finetune=config.finetune.replace(epochs=1),
    )
    rows = _Rows()
    with tempfile.TemporaryDirectory() as folder:
        dense = copy.deepcopy(whole.teacher).requires_grad_()
        parts: dict[str, Any] = {"dense": dense, "splits": cut, "device": placement.device}
        Trial(short, directory=Path(folder), reporter=rows, **parts).run()
    _, searched, tuned = rows.epochs
    eval_s = searched["eval_s"] * len(full.val) / len(cut.val)
    images = len(full.train) / len(cut.train)
    steps = search.most_steps(len(full.search) // search.batch_size)
    search_s = searched["search_s"] * steps / (len(cut.search) // search.batch_size)
    epochs, count = _size(config)
    tune_epochs = config.finetune.epochs
    work_s = (
        (epochs - tune_epochs) * searched["train_s"] * images
        + tune_epochs * tuned["train_s"] * images
        + epochs * eval_s
        + count * search_s
    )
    trial_s = start_s + count * searched["rebuild_s"] + work_s / placement.workers
    dense_s = config.dense.recipe.epochs * (searched["train_s"] * images + eval_s)
    return trial_s, 0.0 if is_cached(config, full, default_cache()) else dense_s


def _size(config: TrialConfig) -> tuple[int, int]:
    """Epochs of a trial, and its searches if each one changes the plan."""
    searches = 0
    if config.schedule["kind"] != RESOLVED:
        schedule = build_schedule(config.schedule)
        for epoch in range(config.search_phase.epochs):
            if schedule.due(epoch):
                schedule.observe(epoch, 1.0 if searches else None)
                searches += 1
    return config.search_phase.epochs + config.finetune.epochs, searches


class _Rows:
    """A reporter that keeps the rows of epochs."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []

    def begin(self, epochs: Any, searches: Any) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None:
        self.epochs.append(row)

    def search(self, row: dict[str, Any]) -> None: ...


def _cut(split: Split, images: int) -> Split:
    kept = np.arange(min(images, len(split)))
    return dataclasses.replace(
        split,
        images=split.images.select(kept),
        labels=split.labels[: len(kept)],
        indices=split.indices[kept],
    )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
