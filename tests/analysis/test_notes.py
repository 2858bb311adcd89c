import math

import pandas as pd
import pytest

from analysis import load, notes, summary


def test_standing_counts_what_was_left_out_arm_by_arm(results):
    table = notes.standing(load.trials(results)).set_index("arm")
    assert table["left_out"].to_dict() == {"never": 0, "fixed_1": 1, "adaptive": 2}
    assert table.loc["adaptive", "left_out_why"] == "1 pending, 1 running"
    assert (table["leakage"] == "").all()


def test_a_note_says_leakage_first_and_what_was_left_out_last(results):
    table = notes.standing(load.trials(results))
    said = notes.write(["Lines: means.", ""], table)
    assert said == (
        "Lines: means. Trials left out: every epoch (1 failed); adaptive (1 pending, 1 running)."
    )
    table.loc[0, "leakage"] = "LEAKAGE: some"
    assert notes.write([], table).startswith("LEAKAGE: some (never (uniform ranks)). Trials")
    table["leakage"] = "LEAKAGE: all"
    assert notes.write([], table).startswith("LEAKAGE: all. Trials")


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([1, 1], "1 seed"),
        ([3], "3 seeds"),
        ([3, 5, math.nan, 4], "3 to 5 seeds"),
        ([1200.2, 1199.8], "1,200 seeds"),
        ([0, 1], "0 to 1 seed"),
    ],
)
def test_count(numbers, said):
    assert notes.count(numbers, "seed") == said


def test_sound_needs_a_finished_trial(results, tmp_path, record, write_results):
    assert len(notes.sound(results)) == 9
    root = write_results(tmp_path / "none", [record("never", 0, status="failed")])
    with pytest.raises(ValueError, match="a study with a finished trial"):
        notes.sound(root)


def test_means_say_which_arms_have_no_interval_and_why(tmp_path, record, write_results):
    accuracies = {"never": (0.9, 0.91, 0.92), "fixed_1": (0.9, 0.9, 0.9), "adaptive": (0.9, 0.95)}
    records = [
        record(
            arm,
            seed,
            test_acc=value,
            search_s=1.0,
            rebuild_s=None,
            macs=1,
            dense_params=1,
            dense_macs=1,
        )
        for arm, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    table = summary.arms(load.trials(write_results(tmp_path / "r", records)))
    assert list(table["interval"]) == [
        "95% t",
        "no interval: all 3 seeds are equal",
        "no interval: 2 seeds",
    ]
    means, bare = notes.means(table)
    assert means == "Test accuracy: mean over 2 to 3 seeds, bars: 95 % t interval."
    assert bare == (
        "No interval for every epoch; adaptive: fewer than 3 seeds, or all seeds equal."
    )
    (_, alone) = notes.means(table[table["arm"] == "adaptive"])
    assert alone == "No interval: fewer than 3 seeds."


def test_rows_become_a_table_with_numbers_flags_and_an_empty_row_for_other_arms(results):
    trials = load.trials(results)
    rows = pd.DataFrame([{"arm": "never", "epoch": 3, "searched": True, "site": "head"}])
    columns = ("arm", "label", "epoch", "searched", "site", "rank", *notes.COLUMNS)
    table = notes.attach(trials, rows, columns)
    assert tuple(table) == columns and list(table["arm"]) == ["never", "fixed_1", "adaptive"]
    assert list(table["searched"]) == [True, False, False]
    assert table["epoch"].dtype == table["rank"].dtype == float
    assert table.loc[0, "site"] == "head" and pd.isna(table.loc[1, "site"])
    assert list(table["left_out"]) == [0, 1, 2]
