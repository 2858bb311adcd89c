import numpy as np
import pandas as pd
import pytest

from analysis import fig_ranks as fig
from analysis import plans

(EXHIBIT,) = fig.EXHIBITS


def test_data_follows_the_plan_in_force(schedules):
    made = fig.data(schedules)
    assert tuple(made) == fig.COLUMNS
    assert made["arm"].unique() == ["adaptive"] and made["seed"].unique() == [0]
    qk = made[made["site"] == "blocks.0.qk"].set_index("epoch")
    # Dense in epoch 0; found 8 at epoch 1, confirmed at 2, 4 from epoch 4 on.
    assert np.isnan(qk.loc[0, "rank"]) and np.isnan(qk.loc[0, "share"])
    assert qk["rank"].tolist()[1:] == [8, 8, 8, 4, 4, 4, 4, 4, 4]
    assert qk.index[qk["changed"]].tolist() == [1, 4]
    assert qk.index[qk["searched"]].tolist() == [1, 2, 4, 8]
    # No candidates were recorded: the largest rank of the kind stands for them.
    assert qk.loc[4, ["largest", "share"]].tolist() == [8, 0.5]
    assert (qk["block"] == 0).all() and (qk["kind"] == "qk").all()


def test_arm_and_seed_can_be_chosen(schedules):
    made = fig.data(schedules, arm="fixed_1", seed=1)
    assert made["arm"].unique() == ["fixed_1"] and made["seed"].unique() == [1]
    assert made.loc[made["searched"], "epoch"].nunique() == 9


def test_a_trial_without_searches_has_its_plan_from_epoch_1_on(schedules, drawn):
    made = fig.data(schedules, arm="never")
    qk = made[made["site"] == "blocks.0.qk"].set_index("epoch")["rank"]
    assert np.isnan(qk[0]) and (qk[1:] == 6).all()
    assert not made["searched"].any() and not made["changed"].any()
    drawn(EXHIBIT, made)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"arm": "oracle"}, "arm: got 'oracle', allowed: finished ones: never, fixed_1, adaptive"),
        ({"seed": 7}, "seed: got 7, allowed: finished ones of adaptive: 0, 1"),
    ],
)
def test_a_trial_that_is_not_there_is_refused(asked, said, schedules):
    with pytest.raises(ValueError, match=said):
        fig.data(schedules, **asked)


def test_shares_are_of_the_largest_candidate_where_it_is_known(
    tmp_path, record, write_results, trace, drawn
):
    made = record("adaptive", 0, searches=1, plan={"blocks.0.qk": 4, "head": None})
    root = write_results(tmp_path / "r", [made], arms={"adaptive": "adaptive"}, seeds=(0,))
    logits = {"blocks.0.qk": {"4": 1.0, "16": 0.0}}
    trace(root, made, {1: {"blocks.0.qk": 4, "head": None}}, 3, logits=logits)
    table = fig.data(root).set_index(["site", "epoch"])
    assert table.loc[("blocks.0.qk", 1), "share"] == 0.25
    assert np.isnan(table.loc[("head", 2), "rank"]) and np.isnan(table.loc[("head", 2), "block"])
    drawn(EXHIBIT, table.reset_index())


def test_default_is_an_arm_that_searched(tmp_path, record, write_results, trace):
    records = [
        record("never", 0),
        record("fixed_1", 0, searches=1),
        record("adaptive", 0, "failed"),
    ]
    root = write_results(tmp_path / "r", records, seeds=(0,))
    trace(root, records[1], {1: {"head": 4}}, 3)
    assert fig.data(root)["arm"].unique() == ["fixed_1"]


def test_cells_show_the_ranks_where_they_begin_and_bars_the_changes(schedules, drawn):
    ranks, changes, scale = drawn(EXHIBIT, fig.data(schedules)).axes
    written = {
        (text.get_position()[0] - 0.5, text.get_position()[1] - 0.5): text.get_text()
        for text in ranks.texts
        if text.get_text()
    }
    # qk 8 from epoch 1 on, then 4 from epoch 4 on; fc1 16.
    assert written == {(1, 0): "8", (4, 0): "4", (1, 1): "16"}
    assert [label.get_text() for label in ranks.get_yticklabels()] == [
        "blocks.0.qk",
        "blocks.0.fc1",
    ]
    shades = ranks.collections[0].get_facecolors().reshape(2, 10, 4)
    gray = shades[..., :3] @ (0.2126, 0.7152, 0.0722)
    # 4 of 8 is lighter than 8 of 8, also in grayscale.
    assert gray[0, 5] > gray[0, 2] + 0.2
    assert [bar.get_height() for bar in changes.patches] == [2, 0, 1, 0]
    assert scale.get_ylabel() == "share of the largest"


def test_main_takes_arm_and_seed(schedules, capsys):
    assert fig.main([str(schedules), "--arm", "fixed_1", "--seed", "1"]) == 0
    assert "every epoch, seed 1" in capsys.readouterr().out
    written = pd.read_csv(schedules / "figures" / "ranks.csv")
    assert tuple(written) == fig.COLUMNS and written["arm"].unique() == ["fixed_1"]


def test_large_models_have_small_print_and_a_note(drawn):
    sites = [f"blocks.{b}.{kind}" for b in range(24) for kind in ("qk", "vo", "fc1", "fc2")]
    rows = [
        {"site": site, **plans.place(site), "epoch": float(epoch), "rank": 64.0 * epoch}
        for epoch in range(2)
        for site in [*sites, "head"]
    ]
    table = pd.DataFrame(rows).assign(
        arm="adaptive", label="adaptive", workload="deit_small_imagenet", seed=0.0, share=0.5
    )
    table = table.assign(searched=table["epoch"] > 0, changed=table["epoch"] > 0, left_out=1)
    table = table.assign(left_out_why="1 failed", leakage="LEAKAGE: all")
    figure = drawn(EXHIBIT, table)
    labels = figure.axes[0].get_yticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) == 97
    assert all(a.y0 >= b.y1 - 1 for a, b in zip(boxes, boxes[1:], strict=False))
    said = fig.note(table)
    assert said.startswith("LEAKAGE: all.") and said.endswith("left out: adaptive (1 failed).")
