import json

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import fig_confounds as fig
from analysis import table_arms

(EXHIBIT,) = fig.EXHIBITS

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
        "metrics": "plain" if arm.startswith("reference") else "inputs",
        "seed": 0,
    }


@pytest.fixture(scope="module")
def confounds(tmp_path_factory, record, write_results):
    records = [
        record(arm, seed, test_acc=value)
        for arm, values in ACCURACIES.items()
        for seed, value in enumerate(values)
    ]
    for made in records:
        made["leakage"] = ["search"] if made["arm"] in LEAKING else []
    labels = {arm: arm.replace("_but_", ", but ") for arm in ACCURACIES}
    root = write_results(tmp_path_factory.mktemp("r"), records, labels, range(5))
    study = json.loads((root / "study.json").read_text())
    for arm in study["arms"]:
        arm["config"] = config(arm["name"])
    (root / "study.json").write_text(json.dumps(study))
    return root


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
    assert fig.change({"a": {"metrics": "inputs"}}, {"a": {"metrics": "plain"}}) == (
        "inputs → plain"
    )
    assert fig.change({"a": 1, "b": 1}, {"a": 2, "b": 2}) == ""
    assert fig.change({}, {}) == ""


def test_marks_stand_at_their_differences_and_are_hollow_where_one_of_two_leaks(
    confounds, drawn, lines
):
    table = fig.data(confounds)
    figure = drawn(EXHIBIT, table)
    assert [ax.get_title(loc="left").partition(",")[0] for ax in figure.axes] == [
        "ours",
        "reference",
    ]
    for end, ax in zip(("ours", "reference"), figure.axes, strict=True):
        rows = table[table["end"] == end]
        marks = lines(ax, f"mark:{end}:")
        assert list(marks) == list(rows["choice"])
        for _, row in rows.iterrows():
            mark = marks[row["choice"]]
            assert mark.get_xdata()[0] == pytest.approx(100 * row["difference"])
            assert (mark.get_markerfacecolor() == "white") == row["leakage_differs"]
        assert ax.get_xlim()[0] < 0 < ax.get_xlim()[1]
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert (
            names[:2] == ["source (dense → current)", "search split (train → test)"]
            or end != "ours"
        )
        (beside,) = ax.child_axes
        numbers = [label.get_text() for label in beside.get_yticklabels()]
        assert len(numbers) == 3 and (end != "ours" or "all 5 differences are equal" in numbers[1])
    hollow = table[table["leakage_differs"]]
    assert set(zip(hollow["end"], hollow["choice"], strict=True)) == {
        (end, choice) for end in ("ours", "reference") for choice in ("search_split", fig.ALL)
    }


def test_arms_without_pairs_have_a_row_that_says_so(tmp_path, record, write_results, drawn):
    records = [record("ours", 0), record("ours_but_clock", 0, "failed")]
    names = {"ours": "ours", "ours_but_clock": "ours, but clock"}
    table = fig.data(write_results(tmp_path / "r", records, names, (0,)))
    assert table.loc[0, ["pairs", "left_out_why", "change"]].tolist() == [0, "1 failed", ""]
    (ax,) = drawn(EXHIBIT, table).axes
    (number,) = ax.child_axes[0].get_yticklabels()
    assert number.get_text() == "no pair of seeds"


def test_a_study_of_other_arms_is_refused(results):
    with pytest.raises(ValueError, match="arms: got .'never'.*END_but_CHOICE"):
        fig.data(results)


def test_the_summary_has_a_row_per_comparison_and_the_note_the_leaks(confounds):
    table = fig.data(confounds)
    (shown,) = fig.summarize(table).values()
    assert len(shown) == 6 and shown["points"][0].startswith("-1.20 [")
    assert fig.note(table).startswith("LEAKAGE")
