import numpy as np
import pandas as pd
import pytest

from analysis import fig_intervals as fig

(EXHIBIT,) = fig.EXHIBITS


def test_data_has_a_row_an_epoch_of_the_search_phase(schedules):
    made = fig.data(schedules)
    assert tuple(made) == fig.COLUMNS
    assert len(made) == 3 * 2 * 10
    adaptive = made[(made["arm"] == "adaptive") & (made["seed"] == 0)].set_index("epoch")
    assert adaptive.index[adaptive["searched"]].tolist() == [1, 2, 4, 8]
    assert adaptive.loc[[1, 2, 4, 8], "sites_changed"].tolist() == [2, 0, 1, 0]
    assert adaptive["sites_changed"].notna().sum() == 4
    assert adaptive.loc[2, "interval"] == 2.0
    assert made.loc[made["arm"] == "never", "interval"].isna().all()
    assert (made["left_out"] == 0).all()


def test_an_arm_without_a_finished_trial_keeps_a_row(results, drawn):
    made = fig.data(results)
    assert made.loc[made["arm"] == "adaptive", "left_out_why"].unique() == ["1 pending, 1 running"]
    assert made.loc[made["arm"] == "fixed_1", "left_out"].unique() == [1]
    # The traces of `results` have epochs 0 and 1 and no word of intervals: a panel less.
    assert len(drawn(EXHIBIT, made).axes) == 1


def test_an_arm_that_only_failed_is_said(tmp_path, record, write_results, trace, drawn):
    records = [record("never", 0), record("fixed_1", 0, status="failed")]
    root = write_results(tmp_path / "r", records, seeds=(0,))
    trace(root, records[0], {}, 4)
    made = fig.data(root).set_index("arm")
    assert np.isnan(made.loc["fixed_1", "seed"])
    texts = [
        label.get_text() for label in drawn(EXHIBIT, fig.data(root)).axes[-1].get_yticklabels()
    ]
    assert texts == [
        "never (uniform ranks): 0 searches",
        "every epoch: no finished trial",
        "adaptive: no finished trial",
    ]


def test_nothing_finished_is_refused(tmp_path, record, write_results):
    root = write_results(tmp_path / "r", [record("never", 0, status="running")])
    with pytest.raises(ValueError, match="1 running.*a finished trial"):
        fig.data(root)


def test_curves_are_steps_at_the_intervals_and_searches_that_changed_are_filled(
    schedules, drawn, lines
):
    made = fig.data(schedules)
    above, below = drawn(EXHIBIT, made).axes
    steps = [line for line in above.lines if line.get_gid() == "interval:adaptive"]
    assert len(steps) == 2
    for line in steps:
        assert line.get_drawstyle() == "steps-post"
        assert line.get_ydata()[:3].tolist() == [1, 1, 2]
    marks = lines(below, "searches:")
    # Nine searches in each fixed trial, of which the first and that of epoch 4 change; 4 and 2 of
    # the adaptive ones, with two changes and one.
    assert len(marks["True"].get_xdata()) == 2 * 2 + 2 + 1
    assert len(marks["False"].get_xdata()) == 2 * 7 + 2 + 1
    texts = [label.get_text().partition(": ")[2] for label in below.get_yticklabels()]
    assert texts == ["0 searches", "9 searches", "2 to 4 searches"]


def test_a_first_search_counts_as_a_change_where_the_trace_does_not_say(schedules, drawn, lines):
    made = fig.data(schedules)
    made.loc[made["epoch"] == 1, "sites_changed"] = np.nan
    marks = lines(drawn(EXHIBIT, made).axes[-1], "searches:")
    assert len(marks["True"].get_xdata()) == 2 * 2 + 2 + 1


def test_an_interval_beyond_the_phase_ends_at_its_length(schedules, drawn):
    made = fig.data(schedules)
    made.loc[(made["arm"] == "adaptive") & (made["epoch"] > 4), "interval"] = 1e9
    assert drawn(EXHIBIT, made).axes[0].get_ylim()[1] < 20
    assert "are drawn at its length" in fig.note(made)


def test_of_many_arms_the_moving_curves_come_first(schedules):
    made = fig.data(schedules)
    assert fig.curves(made) == ["adaptive", "fixed_1"]
    budgets = made.assign(arm=made["arm"] + "_30")
    # The budgets of a schedule look the same: the first stands for all.
    assert fig.curves(pd.concat([made, budgets])) == ["adaptive", "fixed_1"]


def test_the_summary_has_the_epochs_of_search(schedules):
    made = fig.data(schedules)
    (shown,) = fig.summarize(made).values()
    assert shown.iloc[4].tolist() == ["adaptive", 0, 4, "2", "1 2 4 8"]
    assert fig.note(made).endswith("Trials left out: none.")
