import numpy as np
import pandas as pd
import pytest

from analysis import fig_intervals as fig


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
    assert drawn(fig, made).shape == (1, 1)


def test_an_arm_that_only_failed_is_said(tmp_path, record, write_results, trace, drawn):
    records = [record("never", 0), record("fixed_1", 0, status="failed")]
    root = write_results(tmp_path / "r", records, seeds=(0,))
    trace(root, records[0], {}, 4)
    made = fig.data(root).set_index("arm")
    assert np.isnan(made.loc["fixed_1", "seed"])
    below = drawn(fig, fig.data(root))[-1, 0]
    texts = [text.get_text() for text in below.texts]
    assert texts.count("no finished trial") == 2 and "0 searches" in texts


def test_nothing_finished_is_refused(tmp_path, record, write_results):
    root = write_results(tmp_path / "r", [record("never", 0, status="running")])
    with pytest.raises(ValueError, match="1 running.*a finished trial"):
        fig.data(root)


def test_searches_that_changed_the_plan_are_filled(schedules, drawn):
    below = drawn(fig, fig.data(schedules))[-1, 0]
    marks = {line.get_gid(): line for line in below.lines}
    # Nine searches in each fixed trial, of which the first and that of epoch 4 change; 4 and 2 of
    # the adaptive ones, with two changes and one.
    assert len(marks["searches:True"].get_xdata()) == 2 * 2 + 2 + 1
    assert len(marks["searches:False"].get_xdata()) == 2 * 7 + 2 + 1
    texts = [text.get_text() for text in below.texts]
    assert {"0 searches", "9 searches", "2 to 4 searches"} <= set(texts)


def test_a_first_search_counts_as_a_change_where_the_trace_does_not_say(schedules, drawn):
    made = fig.data(schedules)
    made.loc[made["epoch"] == 1, "sites_changed"] = np.nan
    marks = {line.get_gid(): line for line in drawn(fig, made)[-1, 0].lines}
    assert len(marks["searches:True"].get_xdata()) == 2 * 2 + 2 + 1


def test_the_curves_are_steps_at_the_intervals(schedules, drawn):
    above = drawn(fig, fig.data(schedules))[0, 0]
    lines = [line for line in above.lines if line.get_gid() == "interval:adaptive"]
    assert len(lines) == 2
    for line in lines:
        assert line.get_drawstyle() == "steps-post"
        # Two seeds stand apart by less than half a step of the scale.
        np.testing.assert_allclose(np.log2(line.get_ydata())[:3], [0, 0, 1], atol=0.1)
    # The seeds of a fixed schedule are one line.
    assert sum(line.get_gid() == "interval:fixed_1" for line in above.lines) == 1
    assert {"adaptive", "every epoch"} <= {text.get_text() for text in above.texts}


def test_an_interval_beyond_the_phase_ends_at_its_length(schedules, drawn, note):
    made = fig.data(schedules)
    made.loc[(made["arm"] == "adaptive") & (made["epoch"] > 4), "interval"] = 1e9
    panels = drawn(fig, made)
    assert panels[0, 0].get_ylim()[1] < 20
    assert "are drawn at its length" in note(panels)


def many(arms, seeds, epochs):
    """A study of that size, each arm with an interval of its own."""
    rows = [
        {
            "arm": f"arm_{arm}x",
            "label": f"{arm} " + "a label that is much too long " * (arm % 3),
            "workload": "digits",
            "seed": float(seed),
            "epoch": float(epoch),
            "interval": 2.0 ** (arm % 5),
            "searched": epoch % (arm + 1) == 0,
            "sites_changed": 0.0,
        }
        for arm in range(arms)
        for seed in range(seeds)
        for epoch in range(epochs)
    ]
    return pd.DataFrame(rows).assign(left_out=0, left_out_why="", leakage="")


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 30), (18, 5, 20), (3, 3, 300), (40, 10, 20)])
def test_everything_is_inside_the_page(size, drawn):
    panels = drawn(fig, many(*size))
    figure = panels[0, 0].figure
    whole = figure.get_tightbbox()
    assert whole.x0 >= 0 and whole.x1 <= figure.get_figwidth()
    assert whole.y0 >= 0 and whole.y1 <= figure.get_figheight()
    assert figure.get_figheight() < 14


def test_names_beside_the_curves_do_not_overlap(drawn):
    above = drawn(fig, many(5, 2, 20).assign(interval=4.0))[0, 0]
    renderer = above.figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in above.texts]
    assert len(boxes) == 5
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_main_writes_the_three_files(schedules, capsys):
    assert fig.main([str(schedules)]) == 0
    said = capsys.readouterr().out
    assert "1 2 4 8" in said and "Trials left out: none." in said
    written = pd.read_csv(schedules / "figures" / "intervals.csv")
    assert tuple(written) == fig.COLUMNS and len(written) == 60
    assert (schedules / "figures" / "intervals.png").stat().st_size > 10_000


def test_main_names_what_is_missing(tmp_path, capsys):
    assert fig.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("intervals: ") and "study.json" in said and said.count("\n") == 1
