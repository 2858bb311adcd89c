import dataclasses
import math
from pathlib import Path

import pytest

from adacomcat.checks import NonFiniteLoss
from adacomcat.config import DistillConfig, PhaseConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.training import Trial
from adacomcat.training.engine import CALIBRATION_IMAGES

SCHEDULES = {
    "fixed": {"kind": "fixed"},
    "adaptive": {"kind": "adaptive"},
    "elapsed": {"kind": "adaptive", "due": "elapsed", "tolerance": 0.5},
}
METHODS = {
    "current": {"source": "current"},
    "dense": {"source": "dense"},
    "calibrated": {"metrics": "inputs"},
}
CUTS = (1, 2, 5)


def resumes():
    """Every schedule with every method: by default one cut each, and the other cuts if `slow`."""
    for row, (kind, schedule) in enumerate(SCHEDULES.items()):
        for column, (source, method) in enumerate(METHODS.items()):
            one = CUTS[(row + column) % len(CUTS)]
            others = tuple(cut for cut in CUTS if cut != one)
            for cuts, marks in (((one,), ()), (others, pytest.mark.slow)):
                name = "-".join([kind, source, *map(str, cuts)])
                yield pytest.param(schedule, method, cuts, id=name, marks=marks)


@pytest.mark.parametrize(("schedule", "method", "cuts"), list(resumes()))
def test_resume_equals_an_undisturbed_run_bit_for_bit(
    run, timeless, assert_same_state, schedule, method, cuts
):
    changes = {"schedule": schedule, "method": {"name": "lowrank", **method}}
    whole, rows = run("whole", **changes)
    for stop_after in cuts:
        cut = f"cut after {stop_after}"
        stopped, before = run(cut, stop_after=stop_after, **changes)
        assert stopped is None, cut
        resumed, after = run(cut, **changes)
        # The epoch whose report was interrupted had not been saved, and runs again.
        assert before.epochs[:-1] + after.epochs == rows.epochs, cut
        assert after.epochs[0] == before.epochs[-1], cut
        assert timeless(resumed) == timeless(whole), cut
        assert_same_state("whole", cut)


def test_rows_tell_what_happened(run):
    summary, rows = run()
    assert [(r["phase"], r["epoch"]) for r in rows.epochs] == [
        ("search", 0),
        ("search", 1),
        ("search", 2),
        ("search", 3),
        ("finetune", 0),
        ("finetune", 1),
    ]
    assert [r["step_epoch"] for r in rows.epochs] == list(range(6))
    assert [r["searched"] for r in rows.epochs] == [False, True, True, True, False, False]
    assert [r["searches"] for r in rows.epochs] == [0, 1, 2, 3, 3, 3]
    assert summary["searches"] == 3 and summary["search_epochs"] == [1, 2, 3]
    plans = [Plan("lowrank", row["plan"]) for row in rows.searches]
    assert rows.searches[0]["distance"] is None
    assert len(rows.searches[0]["changed"]) == len(plans[0].decisions)
    for earlier, later, row in zip(plans, plans[1:], rows.searches[1:], strict=False):
        assert row["distance"] == later.distance(earlier)
        assert row["changed"] == list(later.changed(earlier))
    for row in rows.searches:
        assert row["plan_cost"] <= row["target_cost"]
        assert row["steps"] == 4 and row["images"] == 64
    assert summary["params"] < summary["dense_params"]
    assert summary["macs"] < summary["dense_macs"]


def test_the_clocks_stay_apart_and_add_up(config, dense, splits, tmp_path):
    class Keep:
        rows = []

        def begin(self, epochs, searches):
            pass

        def epoch(self, row):
            self.rows.append(row)

        def search(self, row):
            pass

    Trial(config, dense=dense, splits=splits, directory=tmp_path, reporter=Keep()).run()
    for row in Keep.rows:
        assert (row["search_s"] > 0) == row["searched"]
        spans = row["train_s"] + row["search_s"] + row["rebuild_s"] + row["eval_s"]
        assert 0 < spans <= row["wall_s"]
        assert row["data_s"] <= row["train_s"] + row["search_s"]


def test_a_search_sees_as_many_images_as_it_may(config, run, splits, monkeypatch):
    """Its calibration, too; without a cap that sees 64."""
    seen = []
    monkeypatch.setattr(
        LowRank, "calibrate", lambda _, batches: seen.append(sum(len(images) for images in batches))
    )
    size, whole = config.search.batch_size, len(splits.search)
    assert 2 * size < whole
    in_steps = whole // size * size
    for name, given, images, calibrated in (
        ("capped", {"steps": None, "images": 2 * size + 1}, 2 * size, 2 * size),
        ("pass", {"steps": None, "images": whole + size}, in_steps, in_steps),
        ("steps", {"steps": 1}, size, min(CALIBRATION_IMAGES, in_steps)),
    ):
        seen.clear()
        _, rows = run(name, search=config.search.replace(**given))
        assert [row["images"] for row in rows.searches] == [images] * 3, name
        assert [row["steps"] for row in rows.searches] == [images // size] * 3, name
        assert seen == [calibrated] * 3, name


def test_a_search_that_ends_early_is_recorded_and_resumed_alike(
    config, run, timeless, assert_same_state
):
    changes = {"search": config.search.replace(steps=30, stable_steps=2)}
    whole, rows = run("whole", **changes)
    assert min(row["steps"] for row in rows.searches) < 30
    assert all(row["images"] == 16 * row["steps"] for row in rows.searches)
    _, before = run("cut", stop_after=3, **changes)
    resumed, after = run("cut", **changes)
    assert before.epochs[:-1] + after.epochs == rows.epochs
    assert timeless(resumed) == timeless(whole)
    assert_same_state("whole", "cut")


def test_seeds_are_paired_across_schedules(run):
    _, often = run("often")
    _, seldom = run("seldom", schedule={"kind": "once", "at": 3})
    assert often.epochs[0] == {**seldom.epochs[0], "interval": often.epochs[0]["interval"]}
    _, other = run("other", seed=1)
    assert other.epochs[0]["loss"] != often.epochs[0]["loss"]


def test_a_search_that_changes_nothing_leaves_the_training_as_it_was(run, monkeypatch):
    """Where the plan stands, searching on must not touch weights, moments or random streams."""
    propose = LowRank.propose

    def keep_the_first(method, budget, decision):
        proposal = propose(method, budget, decision)
        return dataclasses.replace(proposal, plan=method.plan or proposal.plan)

    monkeypatch.setattr(LowRank, "propose", keep_the_first)
    _, often = run("often")
    _, once = run("once", schedule={"kind": "once"})
    assert [row["distance"] for row in often.searches] == [None, 0, 0]
    assert [r["loss"] for r in often.epochs] == [r["loss"] for r in once.epochs]
    assert often.epochs[-1]["val_loss"] == once.epochs[-1]["val_loss"]


def test_never_gets_the_default_plan_where_others_search_first(run):
    summary, rows = run(schedule={"kind": "never"})
    assert summary["searches"] == 0 and rows.searches == []
    params = [r["params"] for r in rows.epochs]
    assert params[0] == summary["dense_params"]
    assert set(params[1:]) == {summary["params"]}
    assert summary["params"] < summary["dense_params"]


def test_without_a_search_phase_the_default_plan_is_finetuned(run):
    summary, rows = run(search_phase=PhaseConfig(epochs=0), schedule={"kind": "never"})
    assert [r["phase"] for r in rows.epochs] == ["finetune"] * 2
    assert summary["params"] < summary["dense_params"]


def test_what_a_phase_without_epochs_asks_for_is_not_checked(config, run):
    search = config.search.replace(batch_size=4000)
    skipped = PhaseConfig(epochs=0, batch_size=4000)
    _, rows = run(search=search, search_phase=skipped, schedule={"kind": "never"})
    assert [r["phase"] for r in rows.epochs] == ["finetune"] * 2


def test_rebuilding_the_optimizer_is_another_training(run):
    recipe = PhaseConfig(epochs=4, batch_size=32, lr=1e-2, optimizer_state="rebuild")
    _, migrated = run("migrated")
    _, rebuilt = run("rebuilt", search_phase=recipe)
    losses = [[r["loss"] for r in rows.epochs] for rows in (migrated, rebuilt)]
    # Epoch 1 starts from no state in one and from the moved state of epoch 0 in the other.
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


def test_the_calibrated_method_runs_through_the_engine(run):
    plain, _ = run("plain")
    whitened, _ = run("whitened", method={"name": "lowrank", "metrics": "inputs"})
    assert whitened["test_loss"] != plain["test_loss"]


def test_a_schedule_without_a_search_in_the_phase_is_refused(run):
    with pytest.raises(ValueError, match=r"schedule: .*'at': 9.* within the 4 epochs"):
        run(schedule={"kind": "once", "at": 9})


def test_an_unreachable_budget_is_refused_before_anything_runs(config, run):
    with pytest.raises(ValueError, match=r"budget.reduction: got 0.99.*smallest reachable cost"):
        run(budget=config.budget.replace(reduction=0.99))


def test_a_checkpoint_of_another_configuration_is_refused(run):
    run("trial", stop_after=2)
    with pytest.raises(ValueError, match=r"checkpoint.config: got \{'seed': 0\}.*\{'seed': 7\}"):
        run("trial", seed=7)


@pytest.mark.parametrize("file", ["checkpoint.sha256", "state-*.pt"])
def test_a_damaged_checkpoint_is_refused_by_name(run, tmp_path, file):
    run("trial", stop_after=2)
    (path,) = (tmp_path / "trial" / "checkpoint").glob(file)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    way_out = rf"{path.parent}/.*: .*; delete the folder {path.parent} to train again"
    with pytest.raises(ValueError, match=way_out):
        run("trial")


@pytest.mark.parametrize(
    ("schedule", "where"),
    [({"kind": "never"}, "loss nan at step 0"), ({"kind": "fixed"}, "search loss nan at step 0")],
)
def test_a_non_finite_loss_names_epoch_step_and_last_checkpoint(
    config, dense, splits, tmp_path, schedule, where
):
    class Poison:
        """Spoils a weight once an epoch is reported."""

        def begin(self, epochs, searches):
            pass

        def epoch(self, row):
            trial.model.get_parameter("head.bias").data.fill_(math.nan)

        def search(self, row):
            pass

    config = config.replace(schedule=schedule)
    trial = Trial(config, dense=dense, splits=splits, directory=tmp_path, reporter=Poison())
    with pytest.raises(NonFiniteLoss) as caught:
        trial.run()
    message = str(caught.value)
    assert message.startswith(f"search phase, epoch 1: {where}")
    assert message.endswith(f"last good checkpoint: {Path(tmp_path) / 'checkpoint'}")


def test_bf16_trains_both_phases(run):
    half = {"bf16": True, "batch_size": 32, "lr": 1e-2}
    exact, _ = run("exact")
    summary, rows = run(
        "half", search_phase=PhaseConfig(epochs=4, **half), finetune=PhaseConfig(epochs=2, **half)
    )
    assert all(math.isfinite(r["loss"]) for r in rows.epochs)
    assert rows.epochs[0]["loss"] != exact["test_loss"]
    assert summary["test_loss"] == pytest.approx(exact["test_loss"], abs=0.3)


def test_mixup_and_clipping_train(run):
    mixed = PhaseConfig(epochs=4, batch_size=32, lr=1e-2, mixup=0.8, cutmix=1.0, clip_grad=1.0)
    _, rows = run("mixed", search_phase=mixed)
    _, plain = run("plain")
    assert all(math.isfinite(r["loss"]) for r in rows.epochs)
    assert rows.epochs[0]["loss"] > plain.epochs[0]["loss"]


def test_a_search_batch_that_does_not_fit_is_refused_before_anything_runs(config, run, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size: got 4000.*search"):
        run("big", search=config.search.replace(batch_size=4000))
    assert not (tmp_path / "big").exists()


def test_blocks_that_the_model_lacks_are_refused_before_anything_runs(run, tmp_path):
    deep = PhaseConfig(epochs=2, batch_size=32, distill=DistillConfig(align_blocks=(0, 5)))
    with pytest.raises(ValueError, match="distill.align_blocks: got 5, allowed: -2 to 1"):
        run("deep", finetune=deep)
    assert not (tmp_path / "deep").exists()
