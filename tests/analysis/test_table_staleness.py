import numpy as np
import pytest

from adacomcat.plan import Plan
from adacomcat.schedule import regret, stale_distance
from analysis import table_staleness as fig


def test_distances_are_those_to_the_plan_of_the_trial_that_always_searched(schedules):
    made = fig.data(schedules)
    assert tuple(made) == fig.COLUMNS
    assert made["reference"].unique() == ["fixed_1"]
    assert sorted(made["epoch"].unique()) == list(range(1, 10))
    rows = made.set_index(["arm", "seed", "epoch"])["distance"].sort_index()
    # qk 8 held where 4 was found is |8 - 4| / 8 of one site of two.
    assert rows["adaptive", 1].tolist() == [0] * 3 + [0.25] * 6
    assert (rows["adaptive", 0] == 0).all() and (rows["fixed_1"] == 0).all()
    # qk 6 beside 8, then 4.
    np.testing.assert_allclose(rows["never", 0], [0.125] * 3 + [1 / 6] * 6)


def test_regret_is_that_of_the_oracle(schedules):
    made = fig.data(schedules).drop_duplicates(["arm", "seed"]).set_index(["arm", "seed"])
    early, late = (Plan("lowrank", {"blocks.0.qk": qk, "blocks.0.fc1": 16}) for qk in (8, 4))
    plans = {epoch: early if epoch < 4 else late for epoch in range(1, 10)}
    for seed, epochs in ((0, [1, 2, 4, 8]), (1, [1, 2])):
        trial = made.loc[("adaptive", seed)]
        assert trial["searches"] == len(epochs)
        assert trial["stale_distance"] == pytest.approx(stale_distance(plans, epochs, 10))
        assert trial["regret"] == pytest.approx(regret(plans, epochs, 10))
    assert made.loc[("adaptive", 0), "regret"] == 0
    # With two searches, 1 and 4 would have been as fresh as can be.
    assert made.loc[("adaptive", 1), "regret"] == pytest.approx(6 * 0.25)
    assert np.isnan(made.loc[("never", 0), "regret"])
    assert made.loc[("never", 0), "stale_distance"] == 9


def test_other_settings_have_no_reference(tmp_path, record, write_results, trace):
    records = [record("fixed_1", 0, searches=3), record("adaptive", 0, searches=1)]
    records[1]["config"] = {"seed": 0, "budget": {"reduction": 0.3}}
    root = write_results(tmp_path / "r", records, seeds=(0,))
    trace(root, records[0], {epoch: {"head": 4} for epoch in (1, 2, 3)}, 4)
    trace(root, records[1], {1: {"head": 4}}, 4)
    made = fig.data(root).set_index("arm")
    assert np.isnan(made.loc["adaptive", "epoch"]) and made.loc["adaptive", "seed"] == 0
    assert made.loc["never", "left_out_why"] == "1 pending" and np.isnan(made.loc["never", "seed"])
    assert "to compare with: 1 of adaptive." in fig.note(made.reset_index())


def test_the_schedule_is_the_one_setting_that_may_differ(tmp_path, record, write_results, trace):
    records = [record("fixed_1", 0, searches=3), record("adaptive", 0, searches=3)]
    records[0]["config"] = {"seed": 0, "schedule": {"kind": "fixed"}}
    records[1]["config"] = {"seed": 0, "schedule": {"kind": "adaptive"}}
    root = write_results(tmp_path / "r", records[::-1], seeds=(0,))
    for made in records:
        trace(root, made, {epoch: {"head": 4} for epoch in (1, 2, 3)}, 4)
    # Both searched at every epoch: the fixed one is the reference.
    assert fig.data(root)["reference"].dropna().unique() == ["fixed_1"]


def test_a_study_without_a_trial_that_always_searched_is_refused(
    tmp_path, record, write_results, trace
):
    made = record("adaptive", 0, searches=1)
    root = write_results(tmp_path / "r", [made], seeds=(0,))
    trace(root, made, {1: {"head": 4}}, 4)
    with pytest.raises(ValueError, match="no finished trial that searched at every epoch"):
        fig.data(root)


def test_the_summary_has_means_over_seeds(schedules):
    (shown,) = fig.summarize(fig.data(schedules)).values()
    rows = shown.set_index("arm")
    assert " ".join(rows.loc["adaptive"].iloc[2:]) == "0.0833 0.750 0.750 1.500"
    assert rows.loc["never (uniform ranks)", ["regret", "largest regret"]].tolist() == ["", ""]
