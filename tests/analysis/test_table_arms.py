import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from analysis import command
from analysis import table_arms as tables

ACCURACIES = {
    "never": (0.90, 0.92, 0.91, 0.93, 0.90),
    "once": (0.91, 0.93, 0.92, 0.94, 0.92),
    "fixed_1": (0.93, 0.92, 0.95, 0.94, 0.95),
    "adaptive": (0.92, 0.93, 0.94, 0.95, 0.94),
    "random_1": (0.90, 0.95, 0.92, 0.94, 0.93),
    "random_2": (0.92, 0.93, 0.94, 0.92, 0.95),
}


def write(root, record, write_results, accuracies=ACCURACIES, failed=(), **study):
    records = [
        record(
            arm,
            seed,
            "failed" if (arm, seed) in failed else "finished",
            test_acc=value,
            searches=6,
            search_s=3.0,
            rebuild_s=1.0,
            macs=7000,
        )
        for arm, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    seeds = range(max(map(len, accuracies.values())))
    return write_results(root, records, {arm: arm for arm in accuracies}, seeds, **study)


@pytest.fixture
def ablation(tmp_path, record, write_results):
    return write(tmp_path / "r", record, write_results)


def as_text(table):
    return " ".join(command.as_text(tables.summarize(table), tables.note(table)).split())


def compared(table):
    return table[table["against"] != ""].set_index(["arm", "against"])


def test_rows_are_arms_by_references(ablation):
    table = tables.data(ablation)
    assert tuple(table.columns) == tables.COLUMNS
    pairs = list(zip(table["arm"], table["against"], strict=True))
    assert pairs == [
        ("never", "fixed_1"),
        ("once", "fixed_1"),
        ("once", "never"),
        ("fixed_1", "never"),
        ("adaptive", "fixed_1"),
        ("adaptive", "never"),
        ("adaptive", "once"),
        ("adaptive", "random"),
        ("random_1", ""),
        ("random_2", ""),
        ("random", "fixed_1"),
        ("random", "never"),
    ]
    never = table.iloc[0]
    assert (never["seeds"], never["searches"], never["searching_s"]) == (5, 6, 4)


def test_comparisons_are_those_of_scipy_and_statsmodels(ablation):
    found = compared(tables.data(ablation))
    arms = {arm: np.array(values) for arm, values in ACCURACIES.items()}
    arms["random"] = (arms["random_1"] + arms["random_2"]) / 2
    for (arm, against), row in found.iterrows():
        test = scipy_stats.ttest_rel(arms[arm], arms[against])
        ends = test.confidence_interval(0.95)
        assert row["pairs"] == 5
        assert row["difference"] == pytest.approx((arms[arm] - arms[against]).mean())
        assert row["p"] == pytest.approx(test.pvalue)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(ends))
    for family, some in found.groupby("family"):
        assert len(some) == {"fixed_1": 4, "never": 4, "adaptive": 2}[family]
        assert list(some["p_holm"]) == pytest.approx(multipletests(some["p"], method="holm")[1])


def test_the_pool_has_the_seeds_that_all_draws_have_finished(tmp_path, record, write_results):
    root = write(tmp_path / "r", record, write_results, failed={("random_1", 0), ("random_2", 3)})
    table = tables.data(root)
    (pool,) = table[(table["arm"] == "random") & (table["against"] == "never")].to_dict("records")
    assert (pool["seeds"], pool["pairs"], pool["left_out_why"]) == (3, 3, "2 failed")
    assert pool["label"] == "random (mean of 2 draws)"
    assert pool["test_acc"] == pytest.approx(np.mean([0.94, 0.93, 0.94]))
    # The note counts a trial once, not again with its pool.
    text = as_text(table)
    assert text.endswith("Trials left out: random_1 (1 failed); random_2 (1 failed).")


def test_a_draw_that_is_unusable_costs_its_seed_of_the_pool(ablation):
    path = ablation / "trials" / "digits-random_2-s1-0123abcd" / "trial.json"
    path.write_text("{")
    (pool,) = compared(tables.data(ablation)).loc[[("random", "never")]].to_dict("records")
    assert (pool["seeds"], pool["left_out_why"]) == (4, "1 not JSON")


def test_what_has_no_interval_says_so_in_its_row(tmp_path, record, write_results):
    two = {arm: values[:2] for arm, values in ACCURACIES.items()}
    table = tables.data(write(tmp_path / "r", record, write_results, two))
    assert set(table["interval"]) == {"no interval: 2 seeds"}
    assert set(compared(table)["ruled_out"]) == {"no interval: 2 pairs of seeds"}
    each, pairs = tables.summarize(table).values()
    assert not each["test accuracy %"].str.contains("±").any()
    assert pairs["points"].str.endswith("(no interval)").all()
    assert "Holm: p" not in as_text(table)


def test_the_note_names_the_families_that_p_is_corrected_over(ablation):
    table = tables.data(ablation)
    text = as_text(table)
    said = "fixed_1 (4 tests), never (4 tests), adaptive (2 tests)"
    assert f"Holm: p corrected for all tests of the same family: {said}." in text
    assert set(list(tables.summarize(table).values())[1]["family"]) == {
        "fixed_1",
        "never",
        "adaptive",
    }


def test_choices_are_compared_with_their_end(tmp_path, record, write_results):
    names = ("ours", "reference", "ours_but_clock", "reference_but_clock")
    values = dict(zip(names, ACCURACIES.values(), strict=False))
    found = compared(tables.data(write(tmp_path / "r", record, write_results, values)))
    assert list(found["family"].items()) == [
        (("ours", "reference"), "reference"),
        (("reference", "ours"), "ours"),
        (("ours_but_clock", "ours"), "ours"),
        (("reference_but_clock", "reference"), "reference"),
    ]
    for _, some in found.groupby("family"):
        assert list(some["p_holm"]) == pytest.approx(multipletests(some["p"], method="holm")[1])


def test_unpaired_seeds_are_left_out_of_a_difference_only(tmp_path, record, write_results):
    failed = {("adaptive", 0), ("fixed_1", 1), ("fixed_1", 2)}
    found = compared(tables.data(write(tmp_path / "r", record, write_results, failed=failed)))
    row = found.loc[("adaptive", "fixed_1")]
    assert (row["seeds"], row["pairs"]) == (4, 2)
    assert row["ruled_out"] == "no interval: 2 pairs of seeds"
    assert row["difference"] == pytest.approx((0.95 - 0.94 + 0.94 - 0.95) / 2)
    assert row[["difference_low", "p", "p_holm", "loss_bound"]].isna().all()


def test_budgets_are_compared_with_their_own_references(tmp_path, record, write_results):
    arms = {
        f"{arm}_{share}": ACCURACIES[arm] for share in (30, 50) for arm in ("never", "adaptive")
    }
    table = tables.data(write(tmp_path / "r", record, write_results, arms))
    found = compared(table)
    assert list(found.index) == [("adaptive_30", "never_30"), ("adaptive_50", "never_50")]
    assert set(found["family"]) == {"never"}


def test_equal_results_are_said_to_be_equal(tmp_path, record, write_results):
    equal = {"never": ACCURACIES["never"], "fixed_1": ACCURACIES["never"]}
    table = tables.data(write(tmp_path / "r", record, write_results, equal))
    assert set(table["ruled_out"]) == {"no interval: all 5 differences are equal"}
    assert set(table["difference"]) == {0.0}
    # What is zero has no sign that would say better or worse.
    assert "-0.00" not in as_text(table)


def test_one_arm_is_a_table_without_comparisons(tmp_path, record, write_results):
    records = [record("adaptive", 0, macs=None, rebuild_s=None, dense_test_acc=None)]
    records[0]["leakage"] = ["search", "selection"]
    root = write_results(tmp_path / "r", records, {"adaptive": "adaptive"}, (0,))
    table = tables.data(root)
    assert len(table) == 1 and table.loc[0, "against"] == "" and table.loc[0, "pairs"] == 0
    text = as_text(table)
    assert "Paired" not in text and "LEAKAGE: the rank search and the selection" in text


def test_main_writes_csv_and_text(ablation, capsys):
    assert tables.main([str(ablation)]) == 0
    said = capsys.readouterr().out
    text = (ablation / "figures" / "table_arms.txt").read_text()
    assert said.startswith(text) and said.rstrip().endswith("table_arms.txt")
    written, made = pd.read_csv(ablation / "figures" / "table_arms.csv"), tables.data(ablation)
    texts = [
        "interval",
        "against",
        "against_label",
        "family",
        "ruled_out",
        "left_out_why",
        "leakage",
    ]
    made[texts] = made[texts].replace("", np.nan)
    pd.testing.assert_frame_equal(written, made, check_dtype=False)
    # Mean and half of the interval of 0.90 0.92 0.91 0.93 0.90: t(0.975, 4) = 2.776, s = 0.0130.
    assert "91.20 ± 1.62" in text
    # Of adaptive less fixed_1, points -1 +1 -1 +1 -1: s = 1.0954, t(0.95, 4) = 2.132.
    assert "-0.20 [-1.56, +1.16]" in text and "a loss of more than 1.25 points" in text
