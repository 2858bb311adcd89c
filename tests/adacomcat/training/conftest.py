"""A trial small enough to run whole in a second."""

import pytest
import torch
from torch import nn

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
from adacomcat.training import Trial, dense_model
from adacomcat.training.checkpoint import load_state

ALONE = DistillConfig(kind="none", align_blocks=())
CLOCKS = {"train_s", "search_s", "rebuild_s", "eval_s", "data_s", "images_per_s", "wall_s"}


class Rows:
    """Keeps what a trial reports; stops it after `stop_after` epochs, as a crash would."""

    def __init__(self, stop_after=None):
        self.epochs, self.searches, self.stop_after = [], [], stop_after

    def begin(self, epochs, searches):
        pass

    def epoch(self, row):
        self.epochs.append({k: v for k, v in row.items() if k not in CLOCKS})
        if len(self.epochs) == self.stop_after:
            raise KeyboardInterrupt

    def search(self, row):
        self.searches.append({k: v for k, v in row.items() if k != "seconds"})


class Counted:
    """Compiles to what dynamo found, as it is, and counts."""

    def __init__(self):
        self.graphs, self.calls = 0, 0

    def __call__(self, graph, examples):
        self.graphs += 1

        def run(*inputs):
            self.calls += 1
            return graph(*inputs)

        return run


@pytest.fixture
def counted(monkeypatch):
    """Has modules compiled by a `Counted`; inductor takes its time, and needs a C++ compiler."""
    backend, compile_it = Counted(), nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: compile_it(self, backend=backend, **options)
    )
    torch.compiler.reset()
    yield backend
    torch.compiler.reset()


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
def dense(config, splits, dense_cache):
    """Trained once a session, loaded anew for each test."""
    torch.set_num_threads(1)
    return dense_model(config, splits, dense_cache / "training")


@pytest.fixture
def make_trial(config, splits, dense, tmp_path):
    """A trial in a folder of its own, and its rows; keyword arguments replace parts of the
    configuration."""

    def make(name="trial", stop_after=None, **changes):
        rows = Rows(stop_after)
        trial = Trial(
            config.replace(**changes),
            dense=dense,
            splits=splits,
            directory=tmp_path / name,
            reporter=rows,
        )
        return trial, rows

    return make


@pytest.fixture
def run(make_trial):
    """Run a trial, from its checkpoint where it has one: (summary, rows); as `make_trial`."""

    def run_it(name="trial", stop_after=None, **changes):
        trial, rows = make_trial(name, stop_after, **changes)
        trial.resume()
        try:
            return trial.run(), rows
        except KeyboardInterrupt:
            return None, rows

    return run_it


@pytest.fixture
def timeless():
    """Takes the clocks out of a summary."""
    return lambda summary: {k: v for k, v in summary.items() if not k.endswith("_s")}


@pytest.fixture
def assert_same_state(tmp_path):
    """Compare the checkpoints of two trials, by their names, bit for bit."""

    def compare(one_name, other_name):
        one, other = (load_state(tmp_path / n / "checkpoint") for n in (one_name, other_name))
        assert one["method"]["plan"] == other["method"]["plan"]
        assert torch.equal(one["method"]["logits"], other["method"]["logits"])
        for part in ("model", "average"):
            assert (one[part] is None) == (other[part] is None)
            weights = one[part] or {}
            assert weights.keys() == (other[part] or {}).keys()
            for name, tensor in weights.items():
                assert torch.equal(tensor, other[part][name]), name
        assert one["schedule"] == other["schedule"]
        for index, slots in one["optimizer"]["state"].items():
            for key, value in slots.items():
                assert torch.equal(value, other["optimizer"]["state"][index][key]), (index, key)

    return compare
