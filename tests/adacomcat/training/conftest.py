"""A trial small enough to run whole in a second."""

import dataclasses
from pathlib import Path

import pytest
import torch

from adacomcat.config import (
    BudgetConfig,
    DataConfig,
    DenseConfig,
    DistillConfig,
    ModelConfig,
    PhaseConfig,
    SearchConfig,
    TrialConfig,
)
from adacomcat.data import build_splits
from adacomcat.training import dense_model, run_trial

ALONE = DistillConfig(kind="none", align_blocks=())
CLOCKS = {"train_s", "search_s", "rebuild_s", "eval_s", "data_s", "images_per_s", "wall_s"}


class Rows:
    """Keeps what a trial reports; stops it after `stop_after` epochs, as a crash would."""

    def __init__(self, stop_after=None):
        self.epochs, self.searches, self.stop_after = [], [], stop_after

    def epoch(self, row):
        self.epochs.append({k: v for k, v in row.items() if k not in CLOCKS})
        if len(self.epochs) == self.stop_after:
            raise KeyboardInterrupt

    def search(self, row):
        self.searches.append({k: v for k, v in row.items() if k != "seconds"})


@pytest.fixture
def config():
    options = {"num_classes": 4, "images": 320, "image_size": 8, "in_chans": 1}
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 4}
    recipe = PhaseConfig(epochs=2, batch_size=32, lr=1e-2, distill=ALONE)
    return TrialConfig(
        data=DataConfig(name="synthetic", options=options, augment="affine"),
        model=ModelConfig(options=sizes),
        dense=DenseConfig(recipe=recipe),
        method={"name": "lowrank", "keep_dense": ["head"]},
        budget=BudgetConfig(reduction=0.6),
        search=SearchConfig(steps=4, batch_size=16, lr=0.2, temperature_start=1.0),
        schedule={"kind": "fixed"},
        search_phase=PhaseConfig(epochs=4, batch_size=32, lr=1e-2),
        finetune=PhaseConfig(epochs=2, batch_size=32, lr=1e-3),
    )


@pytest.fixture
def splits(config):
    return build_splits(config.data)


@pytest.fixture
def dense(config, splits, tmp_path):
    torch.set_num_threads(1)
    return dense_model(config, splits, tmp_path / "cache")


@pytest.fixture
def run(config, splits, dense, tmp_path):
    """Run a trial in a folder of its own; keyword arguments replace parts of the configuration."""

    def run_it(name="trial", stop_after=None, **changes):
        rows = Rows(stop_after)
        changed = dataclasses.replace(config, **changes)
        folder = Path(tmp_path / name)
        try:
            summary = run_trial(
                changed, dense=dense, splits=splits, directory=folder, reporter=rows
            )
        except KeyboardInterrupt:
            summary = None
        return summary, rows

    return run_it
