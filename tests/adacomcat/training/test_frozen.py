"""A search phase that trains nothing, and a method that drops tokens, through the engine."""

import copy
import logging
import re

import pytest
import torch

from adacomcat.config import BudgetConfig, DistillConfig, PhaseConfig, SearchConfig
from adacomcat.methods.registry import build_method
from adacomcat.overrides import build_config
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_
from adacomcat.training import engine
from adacomcat.training.dense import build_dense

ALONE = DistillConfig(kind="none", align_blocks=())
FROZEN = PhaseConfig(epochs=3, frozen=True)
TAUGHT = PhaseConfig(epochs=2, batch_size=32, lr=1e-3, distill=DistillConfig(align_blocks=()))
RATES = {
    "method": {"name": "diffrate"},
    "budget": BudgetConfig(unit="macs", reduction=0.3),
    "search": SearchConfig(steps=6, batch_size=16, lr=0.3, min_lr=0.1, penalty="squared"),
    "schedule": {"kind": "explicit", "epochs": [0, 1, 2]},
    "search_phase": FROZEN,
    "finetune": TAUGHT,
}
"""Token rates as they were published: a search an epoch, nothing trained before the finetuning."""


@pytest.fixture
def config(config):
    """Four blocks and 16 tokens beside the class token."""
    sizes = {**config.model.options, "depth": 4, "patch_size": 2}
    return build_config(config.to_json(), {"model.options": sizes})


@pytest.fixture
def dense(config, splits):
    torch.set_num_threads(1)
    model = build_dense(config, splits)
    draw_parameters_(model, 0)
    return model


AVERAGED = {**RATES, "search_phase": PhaseConfig(epochs=3, frozen=True, ema_decay=0.9)}
RANKS = {"search_phase": FROZEN}
KINDS = {"rates": RATES, "averaged": AVERAGED, "ranks": RANKS}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_a_frozen_phase_leaves_the_dense_weights_committed_to_its_plan(
    make_trial, dense, monkeypatch, changes
):
    trained, whole = [], engine.train_epoch
    monkeypatch.setattr(
        engine, "train_epoch", lambda *a, **k: trained.append(trial.phase_name) or whole(*a, **k)
    )
    trial, rows = make_trial(**changes)
    trial.run(until=3)
    assert not trained and len(rows.searches) >= 2
    method = build_method(copy.deepcopy(dense), trial.config.method)
    for row in rows.searches:
        method.commit_(Plan(method.name, row["plan"]))
    wanted, images = method.model.state_dict(), torch.randn(3, 1, 8, 8)
    for model in (trial.model, trial.result):
        found = model.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(value, wanted[name]) for name, value in found.items())
        assert torch.equal(model.eval()(images), method.model.eval()(images))
    trial.run()
    assert trained == ["finetune"] * 2
    weights = trial.model.state_dict()
    assert not torch.equal(weights["head.weight"], wanted["head.weight"])


def test_rows_of_a_frozen_phase_tell_what_there_is(run, caplog):
    with caplog.at_level(logging.INFO, logger="adacomcat"):
        summary, rows = run(**RATES)
    assert [row["phase"] for row in rows.epochs] == ["search"] * 3 + ["finetune"] * 2
    for row in rows.epochs:
        trained = row["phase"] == "finetune"
        for name in ("loss", "base_loss", "lr", "align_weight"):
            assert (row[name] is not None) == trained, (name, row["epoch"])
        assert 0 <= row["val_acc"] <= 1 and row["val_loss"] > 0
    assert [row["searches"] for row in rows.epochs] == [1, 2, 3, 3, 3]
    assert summary["train_s"] > 0 and summary["searches"] == 3
    assert summary["macs"] <= 0.7 * summary["dense_macs"]
    assert summary["params"] == summary["dense_params"]
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"search phase, epoch 1: val accuracy 0\.\d{4}, 2 searches", lines[1])
    assert lines[3].startswith("finetune phase, epoch 0: loss ")


def test_an_epoch_without_search_or_training_is_no_division_by_zero(run, caplog):
    """Epoch 0 of a frozen phase whose schedule begins at epoch 1."""
    with caplog.at_level(logging.INFO, logger="adacomcat"):
        _, rows = run(**{**RATES, "schedule": {"kind": "once", "at": 1}})
    assert [row["searched"] for row in rows.epochs] == [False, True, False, False, False]
    assert rows.epochs[0]["macs"] > rows.epochs[1]["macs"]
    assert caplog.records[0].getMessage().endswith(", 0 searches")


CUTS = (2, 3, 4)


def resumes():
    """By default one cut each, and the other cuts if `slow`."""
    for (kind, changes), one in zip(KINDS.items(), CUTS, strict=True):
        others = tuple(cut for cut in CUTS if cut != one)
        for cuts, marks in (((one,), ()), (others, pytest.mark.slow)):
            yield pytest.param(changes, cuts, id="-".join([kind, *map(str, cuts)]), marks=marks)


@pytest.mark.parametrize(("changes", "cuts"), list(resumes()))
def test_a_frozen_phase_resumes_bit_for_bit(run, timeless, assert_same_state, changes, cuts):
    whole, rows = run("whole", **changes)
    for stop_after in cuts:
        cut = f"cut after {stop_after}"
        run(cut, stop_after=stop_after, **changes)
        resumed, after = run(cut, **changes)
        assert after.epochs == rows.epochs[stop_after - 1 :], cut
        assert timeless(resumed) == timeless(whole), cut
        assert_same_state("whole", cut)


def test_a_token_method_trains_between_its_searches_too(run):
    """Searched and trained in turn, as low ranks are, with a teacher and an average."""
    alternating = PhaseConfig(
        epochs=3, batch_size=32, lr=1e-3, ema_decay=0.5, distill=DistillConfig(align_blocks=())
    )
    plain, _ = run("frozen", **RATES)
    summary, rows = run("in turn", **{**RATES, "search_phase": alternating})
    assert all(row["loss"] == row["base_loss"] > 0 for row in rows.epochs)
    assert [row["searches"] for row in rows.epochs] == [1, 2, 3, 3, 3]
    assert summary["macs"] <= 0.7 * summary["dense_macs"]
    assert summary["test_loss"] != plain["test_loss"]


@pytest.mark.slow
def test_a_compiled_student_follows_its_rates(run, counted):
    """Each new plan is compiled once, though no parameter of the model is replaced."""
    phases = [
        PhaseConfig(epochs=3, batch_size=32, lr=1e-3, distill=ALONE, compile=compiled)
        for compiled in (False, True)
    ]
    losses = []
    for phase in phases:
        changes = {**RATES, "search_phase": phase, "finetune": phase}
        _, rows = run(str(phase.compile), **changes)
        losses.append([row["loss"] for row in rows.epochs])
    plans = sum(bool(row["changed"]) for row in rows.searches)
    assert plans >= 1 and counted.graphs == plans + 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_alignment_of_blocks_without_their_tokens_is_refused_before_anything_runs(run, tmp_path):
    aligned = PhaseConfig(epochs=2, batch_size=32)
    for phase in ("search_phase", "finetune"):
        message = rf"{phase}\.distill\.align_blocks: got \[0, 1, -2, -1\], allowed: \[\] with "
        with pytest.raises(ValueError, match=message + r"method\.name 'diffrate'"):
            run(phase, **{**RATES, phase: aligned})
        assert not (tmp_path / phase).exists()
    # Neither a frozen phase nor one without epochs aligns anything.
    run("idle", **{**RATES, "finetune": PhaseConfig(epochs=0)})


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"finetune.frozen": True}, "finetune"), ({"dense.recipe.frozen": True}, "dense.recipe")],
)
def test_frozen_is_for_a_search_phase_alone(config, settings, field):
    with pytest.raises(ValueError, match=rf"^{field}\.frozen: got True, allowed: false"):
        build_config(config.to_json(), settings)
    idle = {"finetune.frozen": True, "finetune.epochs": 0}
    assert build_config(config.to_json(), idle).finetune.frozen
