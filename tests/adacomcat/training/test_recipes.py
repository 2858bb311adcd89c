"""What the recipes add to the engine: averages, parts, compilation, adopted models, the log."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch

from adacomcat.config import DataConfig, PhaseConfig, RuntimeConfig
from adacomcat.data import build_splits, make_loader
from adacomcat.testing.images import write_image_folder
from adacomcat.training import Trial
from adacomcat.training.checkpoint import load_state
from adacomcat.training.dense import build_dense
from adacomcat.training.epoch import evaluate
from adacomcat.training.rows import epoch_line

AVERAGED = {
    name: PhaseConfig(epochs=epochs, batch_size=32, lr=lr, ema_decay=0.9, accumulate=2)
    for name, epochs, lr in (("search_phase", 4, 1e-2), ("finetune", 2, 1e-3))
}


def test_an_averaged_trial_resumes_bit_for_bit(run, timeless, assert_same_state, tmp_path):
    whole, rows = run("whole", **AVERAGED)
    assert load_state(tmp_path / "whole" / "checkpoint")["average"] is not None
    for stop_after in (1, 3, 5):
        cut = f"cut after {stop_after}"
        run(cut, stop_after=stop_after, **AVERAGED)
        resumed, after = run(cut, **AVERAGED)
        assert after.epochs == rows.epochs[stop_after - 1 :], cut
        assert timeless(resumed) == timeless(whole), cut
        assert_same_state("whole", cut)


def test_an_average_changes_what_is_evaluated_and_handed_on_not_what_is_searched(run):
    plain, rows = run("plain")
    averaged, other = run("averaged", search_phase=replaced_recipe(ema_decay=0.9))
    assert other.searches == rows.searches
    for row, same in zip(rows.epochs[:4], other.epochs[:4], strict=True):
        assert row["loss"] == same["loss"] and row["val_loss"] != same["val_loss"]
    # The finetune phase has no average of its own, and begins from another model.
    assert rows.epochs[4]["loss"] != other.epochs[4]["loss"]
    assert averaged["test_loss"] != plain["test_loss"]


def replaced_recipe(**changes):
    return PhaseConfig(epochs=4, batch_size=32, lr=1e-2, **changes)


def test_the_result_is_what_was_evaluated_and_what_finetuning_begins_with(
    make_trial, config, splits, tmp_path
):
    trial, _ = make_trial(**AVERAGED)
    trial.run(until=4)
    val = make_loader(splits.val, config.data, batch_size=50, seed=0, train=False)
    accuracy, loss = evaluate(trial.result, val, trial.recipe)
    assert trial.rows[-1]["val_acc"] == accuracy
    assert trial.rows[-1]["val_loss"] == pytest.approx(loss, rel=1e-6)
    saved = load_state(tmp_path / "trial" / "checkpoint")
    assert saved["phase"] == "search" and trial.phase_name == "finetune"
    assert not torch.equal(saved["model"]["norm.bias"], saved["average"]["norm.bias"])
    for model in (trial.model, trial.result):
        for name, value in model.state_dict().items():
            assert torch.equal(value, saved["average"][name]), name


@pytest.mark.slow
def test_a_compiled_trial_is_the_eager_one(run, counted):
    short = {"epochs": 3, "batch_size": 32, "lr": 1e-2}
    _, eager = run("eager", search_phase=PhaseConfig(**short), finetune=PhaseConfig(**short))
    assert counted.calls == 0
    recipe = PhaseConfig(compile=True, **short)
    _, compiled = run("compiled", search_phase=recipe, finetune=recipe)
    # Dense, each new plan, and the finetune phase: a student and a teacher each.
    plans = sum(bool(row["changed"]) for row in compiled.searches)
    assert plans >= 1 and counted.graphs == 2 * (1 + plans + 1)
    for one, other in zip(eager.epochs, compiled.epochs, strict=True):
        for key in ("loss", "base_loss", "val_loss"):
            assert other[key] == pytest.approx(one[key], rel=1e-4), (key, one["epoch"])
    assert [row["plan"] for row in compiled.searches] == [row["plan"] for row in eager.searches]


def finetune_alone(epochs):
    return {
        "search_phase": PhaseConfig(epochs=0, batch_size=32),
        "finetune": PhaseConfig(epochs=epochs, batch_size=32, lr=1e-3),
    }


class TestAdopting:
    """A finetune phase alone, on what a search phase left."""

    @pytest.fixture
    def found(self, make_trial):
        """(result, plan, summary) of a search phase alone, averaged."""
        trial, _ = make_trial(
            "search", **(AVERAGED | {"finetune": PhaseConfig(epochs=0, batch_size=32)})
        )
        summary = trial.run()
        return trial.result, trial.method.plan, summary

    def test_nothing_is_lost_on_the_way(self, make_trial, found):
        model, plan, summary = found
        before = {name: value.clone() for name, value in model.state_dict().items()}
        trial, _ = make_trial("none", **finetune_alone(0))
        trial.adopt_(model, plan)
        adopted = trial.run()
        for key in ("test_acc", "test_loss", "params", "macs", "plan", "dense_test_acc"):
            assert adopted[key] == summary[key], key
        assert adopted["searches"] == 0
        trained, rows = make_trial("two", **finetune_alone(2))
        trained.adopt_(model, plan)
        assert trained.run()["test_loss"] != summary["test_loss"]
        assert [row["phase"] for row in rows.epochs] == ["finetune"] * 2
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_it_resumes_bit_for_bit(self, make_trial, timeless, assert_same_state, found):
        whole, _ = make_trial("whole", **finetune_alone(3))
        assert not whole.resume()
        whole.adopt_(*found[:2])
        summary = whole.run()
        cut, _ = make_trial("cut", stop_after=2, **finetune_alone(3))
        cut.adopt_(*found[:2])
        with pytest.raises(KeyboardInterrupt):
            cut.run()
        resumed, _ = make_trial("cut", **finetune_alone(3))
        assert resumed.resume()
        assert timeless(resumed.run()) == timeless(summary)
        assert_same_state("whole", "cut")

    def test_a_trial_that_has_begun_adopts_nothing(self, make_trial, found):
        trial, _ = make_trial("late")
        trial.run(until=1)
        with pytest.raises(ValueError, match="adopt_: epochs done: got 1, allowed: 0"):
            trial.adopt_(*found[:2])


def test_each_epoch_is_a_line_of_the_log(run, caplog):
    with caplog.at_level(logging.INFO, logger="adacomcat"):
        _, rows = run()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(rows.epochs) == 6
    row, line = rows.epochs[1], lines[1]
    assert line.startswith(
        f"search phase, epoch 1: loss {row['loss']:.4f}, val accuracy {row['val_acc']:.4f}, "
        "1 search, "
    )
    assert re.search(r", \d+ images/s, \d+\.\d% of the training time spent waiting for data$", line)
    assert "finetune phase, epoch 0: " in lines[4] and "3 searches" in lines[4]


def test_the_line_tells_the_share_of_waiting():
    row = {"phase": "search", "epoch": 0, "loss": 1.0, "val_acc": 0.5, "searches": 0}
    clocks = {"images_per_s": 9.6, "data_s": 1.0, "train_s": 3.0, "search_s": 5.0}
    line = epoch_line({**row, **clocks, "unreadable": 0})
    assert line.endswith(
        "0 searches, 10 images/s, 12.5% of the training time spent waiting for data"
    )
    line = epoch_line({**row, **clocks, "unreadable": 2})
    assert line.endswith("for data, 2 unreadable images left out so far")


def test_unreadable_images_are_counted(config, tmp_path):
    root = write_image_folder(tmp_path / "images", classes=2, train=40, val=8, side=16)
    truncated = root / "train" / "class_000" / "0003.jpg"
    truncated.write_bytes(truncated.read_bytes()[:200])
    data = DataConfig(
        name="imagefolder",
        root=str(root),
        image_size=8,
        search_images=16,
        search_fraction=0.3,
        val_fraction=0.2,
    )
    recipe = PhaseConfig(epochs=1, batch_size=8)
    config = config.replace(
        data=data,
        search_phase=recipe,
        finetune=recipe,
        schedule={"kind": "never"},
        runtime=RuntimeConfig(skip_unreadable=True),
    )
    splits = build_splits(data)
    dense, silent = (
        build_dense(config, splits),
        SimpleNamespace(begin=lambda *rows: None, epoch=id, search=id),
    )
    trial = Trial(config, dense=dense, splits=splits, directory=tmp_path, reporter=silent)
    trial.run()
    assert [row["unreadable"] for row in trial.rows] == [1, 1]
