import pytest
import torch
from torch import nn

from adacomcat.config import PhaseConfig
from adacomcat.testing.golden import reference_rows
from adacomcat.training.optim import build_optimizer, set_learning_rate

TRACE = "published_deit_small_trace.csv"


def test_the_rate_is_scaled_before_the_optimizer_is_built():
    optimizer = build_optimizer(nn.Linear(2, 2), PhaseConfig(lr=1e-3, batch_size=128))
    assert {group["lr"] for group in optimizer.param_groups} == {2.5e-4}


def test_no_decay_on_biases():
    optimizer = build_optimizer(nn.Linear(2, 3), PhaseConfig(weight_decay=0.1))
    decays = {
        p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decays == {1: 0.0, 2: 0.1}


def test_the_cosine_is_the_published_column():
    """From epoch 1 on; in epoch 0 the reference runs at its unscaled rate."""
    phase = PhaseConfig(epochs=30, lr=5e-4, batch_size=256, lr_batch_size=512, min_lr=1e-5)
    optimizer = build_optimizer(nn.Linear(2, 2), phase)
    for row in reference_rows(TRACE)[1:]:
        rate = set_learning_rate(optimizer, phase, int(row["epoch"]))
        assert rate == pytest.approx(float(row["lr"]), abs=6e-7)


def test_warm_up_rises_to_the_cosine():
    phase = PhaseConfig(epochs=10, lr=1e-3, batch_size=512, warmup_epochs=4, min_lr=0.0)
    plain = PhaseConfig(epochs=10, lr=1e-3, batch_size=512, min_lr=0.0)
    rates = {}
    for recipe in (phase, plain):
        optimizer = build_optimizer(nn.Linear(2, 2), recipe)
        rates[recipe] = [set_learning_rate(optimizer, recipe, epoch) for epoch in range(10)]
    assert rates[phase][:4] == pytest.approx([0.0, 2.5e-4, 5e-4, 7.5e-4])
    assert rates[phase][4:] == rates[plain][4:]


def test_the_rate_depends_on_the_epoch_alone():
    phase = PhaseConfig(epochs=10, lr=1e-3)
    fresh, used = (build_optimizer(nn.Linear(2, 2), phase) for _ in range(2))
    for epoch in (3, 9, 1):
        set_learning_rate(used, phase, epoch)
    assert set_learning_rate(used, phase, 5) == set_learning_rate(fresh, phase, 5)
    assert torch.tensor([g["lr"] for g in used.param_groups]).unique().numel() == 1
