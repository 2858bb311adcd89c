import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from analysis import fig_ranks as fig


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
    drawn(fig, made)


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
    drawn(fig, table.reset_index())


def test_default_is_an_arm_that_searched(tmp_path, record, write_results, trace):
    records = [
        record("never", 0),
        record("fixed_1", 0, searches=1),
        record("adaptive", 0, "failed"),
    ]
    root = write_results(tmp_path / "r", records, seeds=(0,))
    trace(root, records[1], {1: {"head": 4}}, 3)
    assert fig.data(root)["arm"].unique() == ["fixed_1"]


def test_cells_show_the_ranks_and_edges_the_changes(schedules, drawn):
    ranks, changes = drawn(fig, fig.data(schedules))[:, 0]
    # qk 8, then 4; fc1 16: written where they begin, the later one beside an edge.
    assert [text.get_text() for text in ranks.texts if text.get_text().isdecimal()] == [
        "8",
        "16",
        "4",
    ]
    edges = [line for line in ranks.lines if (line.get_gid() or "").startswith("change:")]
    assert [line.get_xdata()[0] for line in edges] == [3.5]
    assert [text.get_text() for text in changes.texts] == ["first", "0", "1", "0"]
    assert [bar.get_height() for bar in changes.patches] == [0, 1, 0]


def test_shades_darken_in_grayscale():
    shades = fig._shades()(np.linspace(0, 1, 50))
    gray = [np.dot(to_rgb(shade), (0.2126, 0.7152, 0.0722)) for shade in shades]
    assert np.all(np.diff(gray) < 0) and gray[0] - gray[-1] > 0.6


def large(blocks, epochs, label="adaptive"):
    sites = [f"blocks.{b}.{kind}" for b in range(blocks) for kind in ("qk", "vo", "fc1", "fc2")]
    rows = [
        {
            "arm": "adaptive",
            "label": label,
            "workload": "deit_small_imagenet",
            "seed": 0,
            "epoch": epoch,
            "searched": epoch > 0,
            "site": site,
            **fig.place(site),
            "rank": 64.0 * (1 + (epoch + number) % 4) if epoch else np.nan,
            "largest": 256,
            "share": (1 + (epoch + number) % 4) / 4 if epoch else np.nan,
            "changed": epoch > 0,
        }
        for epoch in range(epochs)
        for number, site in enumerate([*sites, "head"])
    ]
    return pd.DataFrame(rows).assign(left_out=1, left_out_why="1 failed", leakage="LEAKAGE: all")


@pytest.mark.parametrize("size", [(1, 2), (4, 20), (12, 30), (24, 40)])
def test_everything_is_inside_the_page(size, drawn):
    panels = drawn(fig, large(*size, label="a label that goes on and on and on beyond all measure"))
    figure = panels[0, 0].figure
    whole = figure.get_tightbbox()
    assert whole.x0 >= 0 and whole.x1 <= figure.get_figwidth()
    assert whole.y0 >= 0 and whole.y1 <= figure.get_figheight()


def test_names_of_sites_do_not_overlap(drawn):
    ranks = drawn(fig, large(24, 5))[0, 0]
    renderer = ranks.figure.canvas.get_renderer()
    boxes = [label.get_window_extent(renderer) for label in ranks.get_yticklabels()]
    assert len(boxes) == 97
    assert all(a.y0 >= b.y1 - 1 for a, b in zip(boxes, boxes[1:], strict=False))


def test_main_takes_arm_and_seed(schedules, capsys):
    assert fig.main([str(schedules), "--arm", "fixed_1", "--seed", "1"]) == 0
    assert "every epoch, seed 1" in capsys.readouterr().out
    written = pd.read_csv(schedules / "figures" / "ranks.csv")
    assert tuple(written) == fig.COLUMNS and written["arm"].unique() == ["fixed_1"]


def test_leakage_and_what_was_left_out_stand_below(drawn):
    (note,) = (t for t in drawn(fig, large(2, 5))[0, 0].figure.texts if t.get_gid() == "note")
    said = " ".join(note.get_text().split())
    assert said.startswith("LEAKAGE: all.") and said.endswith("left out: adaptive (1 failed).")
