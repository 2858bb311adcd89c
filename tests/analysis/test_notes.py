import pytest

from analysis import load, notes


def test_standing_counts_what_was_left_out_arm_by_arm(results):
    table = notes.standing(load.trials(results)).set_index("arm")
    assert table["left_out"].to_dict() == {"never": 0, "fixed_1": 1, "adaptive": 2}
    assert table.loc["adaptive", "left_out_why"] == "1 pending, 1 running"
    assert (table["leakage"] == "").all()


def test_a_note_says_leakage_first_and_what_was_left_out_last(results):
    table = notes.standing(load.trials(results))
    said = notes.write(["Lines: means.", ""], table)
    assert said == (
        "Lines: means. Trials left out: every epoch (1 failed), adaptive (1 pending, 1 running)."
    )
    table.loc[0, "leakage"] = "LEAKAGE: some"
    assert notes.write([], table).startswith("LEAKAGE: some (never (uniform ranks)). Trials")
    table["leakage"] = "LEAKAGE: all"
    assert notes.write([], table).startswith("LEAKAGE: all. Trials")


@pytest.mark.parametrize(
    ("numbers", "said"), [([1, 1], "1 seed"), ([3], "3 seeds"), ([3, 5, 4], "3 to 5 seeds")]
)
def test_count(numbers, said):
    assert notes.count(numbers, "seed") == said


def test_sound_needs_a_finished_trial(results, tmp_path, record, write_results):
    assert len(notes.sound(results)) == 9
    root = write_results(tmp_path / "none", [record("never", 0, status="failed")])
    with pytest.raises(ValueError, match="a study with a finished trial"):
        notes.sound(root)
