import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis import fig_confounds as fig
from analysis import style, table_arms

ACCURACIES = {
    "ours": (0.95, 0.96, 0.95, 0.97, 0.96),
    "reference": (0.93, 0.95, 0.94, 0.94, 0.95),
    "ours_but_source": (0.94, 0.94, 0.95, 0.95, 0.95),
    "ours_but_search_split": (0.96, 0.97, 0.96, 0.98, 0.97),
    "reference_but_source": (0.94, 0.95, 0.96, 0.94, 0.96),
    "reference_but_search_split": (0.93, 0.95, 0.93, 0.94, 0.94),
}
LEAKING = ("ours_but_search_split", "reference", "reference_but_source")


def config(arm):
    return {
        "method": {
            "source": "dense"
            if arm in ("ours", "ours_but_search_split", "reference_but_source")
            else "current"
        },
        "data": {"search_from": "test" if arm in LEAKING else "train"},
        "calibrated": not arm.startswith("reference"),
        "seed": 0,
    }


@pytest.fixture
def confounds(tmp_path, record, write_results):
    records = [
        record(arm, seed, test_acc=value)
        for arm, values in ACCURACIES.items()
        for seed, value in enumerate(values)
    ]
    for made in records:
        made["leakage"] = ["search"] if made["arm"] in LEAKING else []
    labels = {arm: arm.replace("_but_", ", but ") for arm in ACCURACIES}
    root = write_results(tmp_path / "r", records, labels, range(5))
    study = json.loads((root / "study.json").read_text())
    for arm in study["arms"]:
        arm["config"] = config(arm["name"])
    (root / "study.json").write_text(json.dumps(study))
    return root


def drawn(table):
    with style.shared_style():
        ax = fig.axes(table)
        fig.draw(ax, table)
    return ax


def test_rows_are_the_choices_of_each_end_then_the_other_end(confounds):
    table = fig.data(confounds)
    assert tuple(table.columns) == fig.COLUMNS
    rows = list(zip(table["end"], table["choice"], table["arm"], strict=True))
    assert rows == [
        ("ours", "source", "ours_but_source"),
        ("ours", "search_split", "ours_but_search_split"),
        ("ours", fig.ALL, "reference"),
        ("reference", "source", "reference_but_source"),
        ("reference", "search_split", "reference_but_search_split"),
        ("reference", fig.ALL, "ours"),
    ]
    for _, row in table.iterrows():
        one, other = ACCURACIES[row["arm"]], ACCURACIES[row["end"]]
        assert row["difference"] == pytest.approx(np.mean(one) - np.mean(other))
        if row["ruled_out"].endswith("equal"):
            assert (row["end"], row["choice"]) == ("ours", "search_split")
            continue
        ends = scipy_stats.ttest_rel(one, other).confidence_interval(0.95)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(ends))


def test_its_p_values_are_those_of_the_table(confounds):
    of_table = table_arms.data(confounds).set_index(["arm", "against"])["p_holm"]
    for _, row in fig.data(confounds).iterrows():
        assert row["p_holm"] == pytest.approx(of_table[row["arm"], row["end"]], nan_ok=True)


def test_a_change_of_one_setting_is_named(confounds):
    table = fig.data(confounds).set_index(["end", "choice"])["change"]
    assert table["ours", "source"] == "dense → current"
    assert table["ours", "search_split"] == "train → test"
    assert table["ours", fig.ALL] == ""
    assert fig._change({"a": {"calibrated": True}}, {"a": {"calibrated": False}}) == (
        "calibrated → not calibrated"
    )
    assert fig._change({"a": 1, "b": 1}, {"a": 2, "b": 2}) == ""
    assert fig._change({}, {}) == ""


def test_marks_stand_at_their_differences_and_are_hollow_where_one_of_two_leaks(confounds):
    table = fig.data(confounds)
    ax = drawn(table)
    marks = {line.get_gid(): line for line in ax.lines if "mark:" in (line.get_gid() or "")}
    assert len(marks) == 6
    for _, row in table.iterrows():
        mark = marks[f"mark:{row['end']}:{row['choice']}"]
        assert mark.get_xdata()[0] == pytest.approx(100 * row["difference"])
        assert (mark.get_markerfacecolor() == "white") == row["leakage_differs"]
    hollow = table[table["leakage_differs"]]
    assert set(zip(hollow["end"], hollow["choice"], strict=True)) == {
        ("ours", "search_split"),
        ("ours", fig.ALL),
        ("reference", "search_split"),
        ("reference", fig.ALL),
    }
    assert ax.get_xlim()[0] < 0 < ax.get_xlim()[1]
    texts = [text.get_text() for text in ax.texts]
    assert "all 5 differences are equal" in texts and "dense → current" in texts


def test_everything_is_inside_the_figure(confounds):
    figure = drawn(fig.data(confounds)).figure
    figure.canvas.draw()
    whole = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert 0 <= whole.x0 and whole.x1 <= figure.bbox.x1
    assert 0 <= whole.y0 and whole.y1 <= figure.bbox.y1


def test_arms_without_pairs_have_a_row_that_says_so(tmp_path, record, write_results):
    records = [record("ours", 0), record("ours_but_clock", 0, "failed")]
    names = {"ours": "ours", "ours_but_clock": "ours, but clock"}
    table = fig.data(write_results(tmp_path / "r", records, names, (0,)))
    assert table.loc[0, ["pairs", "left_out_why", "change"]].tolist() == [0, "1 failed", ""]
    ax = drawn(table)
    assert "no pair of seeds" in [text.get_text() for text in ax.texts]


def test_a_study_of_other_arms_is_refused(results):
    with pytest.raises(ValueError, match="arms: got .'never'.*END_but_CHOICE"):
        fig.data(results)


def test_main_writes_picture_print_and_the_plotted_table(confounds, capsys):
    assert fig.main([str(confounds)]) == 0
    said = capsys.readouterr().out.splitlines()
    paths = said[-3:]
    assert [path.rpartition("/")[2] for path in paths] == [
        f"confounds.{kind}" for kind in ("png", "pdf", "csv")
    ]
    assert len(pd.read_csv(paths[2])) == 6
    assert "points" in said[-4] or "LEAKAGE" in said[-4]
