"""Against plans whose changes were counted by hand."""

import pytest

from analysis import table_changes

A, B = "blocks.0.qk", "blocks.0.fc1"


@pytest.fixture
def moving(tmp_path, record, write_results, trace):
    """`free` grows and shrinks, and in one of its seeds keeps its first plan; `never` has none."""
    arms = {"never": "never", "free": "free"}
    records = [
        record("never", 0),
        record("free", 0),
        record("free", 1),
        record("free", 2, "failed"),
    ]
    root = write_results(tmp_path / "moving", records, arms)
    trace(root, records[0], {}, 10)
    plans = {1: {A: 4, B: 8}, 2: {A: 8, B: 4}, 4: {A: 8, B: 4}, 6: {A: 8, B: None}}
    trace(root, records[1], plans, 10)
    trace(root, records[2], {1: {A: 4, B: 8}, 2: {A: 4, B: 8}}, 10)
    trace(root, records[3], plans, 10)
    return root


def test_what_later_searches_did_is_counted_by_direction(moving):
    (row,) = table_changes.data(moving).to_dict("records")
    assert row["arm"] == "free"
    assert (row["seeds"], row["settled"]) == (2, 1)
    # Four searches and two; two later ones changed something, both of the first seed.
    assert (row["searches"], row["changing"]) == (3.0, 1.0)
    # 4 to 8, and 4 to dense, which is above every rank; 8 to 4.
    assert (row["grown"], row["shrunk"]) == (1.0, 0.5)
    assert row["last_change"] == 6.0
    assert row["left_out_why"] == "1 failed"


def test_a_plan_that_is_kept_has_no_last_change(schedules):
    table = table_changes.data(schedules).set_index("arm")
    assert table.loc["fixed_1", ["changing", "grown", "shrunk", "last_change"]].tolist() == [
        1.0,
        0.0,
        1.0,
        4.0,
    ]
    # Of seed 1, which searched at epochs 1 and 2 alone, nothing changed.
    assert table.loc["adaptive", ["settled", "shrunk", "last_change"]].tolist() == [1, 0.5, 4.0]


def test_the_summary_and_the_note(moving):
    table = table_changes.data(moving)
    (shown,) = table_changes.summarize(table).values()
    assert shown.iloc[0].tolist()[3:] == ["3.0", "1.0", "1.0", "0.5", "6.0"]
    assert "Trials left out: free (1 failed)." in table_changes.note(table)


def test_a_study_that_never_searched_is_refused(tmp_path, record, write_results, trace, capsys):
    records = [record("never", 0)]
    root = write_results(tmp_path / "r", records, {"never": "never"}, (0,))
    trace(root, records[0], {}, 4)
    assert table_changes.main([str(root)]) == 2
    said = capsys.readouterr().err
    assert "got 'no search', allowed: a study with a finished trial that searched" in said
