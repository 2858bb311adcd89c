import json

import pytest
from scipy import stats

from analysis import fig_methods as fig
from analysis import table_arms

(EXHIBIT,) = fig.EXHIBITS

LABELS = {"lowrank": "low-rank", "uniform": "uniform rates", "diffrate": "DiffRate", "both": "both"}
ACCURACIES = {
    "lowrank": (0.85, 0.86, 0.84),
    "uniform": (0.84, 0.84, 0.85),
    "diffrate": (0.86, 0.85, 0.85),
    "both": (0.87, 0.885, 0.87),
}
BUDGETS = (30, 50)


@pytest.fixture
def study(tmp_path, record, write_results):
    """Four methods at two budgets, three seeds."""
    arms = {f"{m}_{b}": f"{label}, -{b}%" for b in BUDGETS for m, label in LABELS.items()}
    records = []
    for arm, label in arms.items():
        method, _, budget = arm.rpartition("_")
        for seed, accuracy in enumerate(ACCURACIES[method]):
            made = record(
                arm,
                seed,
                test_acc=accuracy - int(budget) / 1000,
                params=500,
                dense_params=700,
                macs=10_000 - 100 * int(budget) - seed,
                dense_macs=10_000,
                dense_test_acc=0.9,
            )
            name = {"uniform": "diffrate", "both": "lowrank+diffrate"}.get(method, method)
            records.append(made | {"label": label, "config": {"method": {"name": name}}})
    return write_results(tmp_path / "methods", records, arms)


@pytest.fixture
def measured(study):
    """The same with speeds, of all trials but those of `both_50`: 100, 101, 102 for each arm."""
    rates = {
        path.name: {"images_per_s": 100.0 + number % 3, "over_dense": 1.5}
        for number, path in enumerate(sorted((study / "trials").iterdir()))
        if "both_50" not in path.name
    }
    settings = {"device": "cpu", "threads": 2, "batch_size": 64, "dtype": "float32"}
    content = {
        "settings": settings,
        "provenance": {"hardware": {"cpu": "A fast one", "gpu": []}},
        "dense": {"images_per_s": 60.0, "over_dense": 1.0},
        "trials": rates,
    }
    (study / "speed.json").write_text(json.dumps(content))
    return study


def test_data_has_an_arm_a_row_and_the_dense_model(measured):
    table = fig.data(measured)
    assert tuple(table.columns) == fig.COLUMNS
    assert list(table["arm"].iloc[[0, -2, -1]]) == ["lowrank_30", "both_50", "dense"]
    dense = table.iloc[-1]
    assert (dense["macs"], dense["params"], dense["test_acc"]) == (10_000, 700, pytest.approx(0.9))
    assert (dense["images_per_s"], dense["over_dense"]) == (60, 1)
    one = table.set_index("arm").loc["diffrate_50"]
    assert (one["macs"], one["macs_min"], one["macs_max"]) == (4999, 4998, 5000)
    assert (one["images_per_s"], one["images_per_s_min"], one["images_per_s_max"]) == (
        101,
        100,
        102,
    )
    assert one["measured"] == "batch 64, float32, A fast one, 2 threads"


def test_table_arms_has_the_paired_differences_of_methods_at_the_same_budget(study):
    """A method is compared with uniform rates and with the methods that are listed before it."""
    table = table_arms.data(study).set_index(["arm", "against"])
    for budget in BUDGETS:
        found = {a: b for a, b in table.index if a.endswith(f"_{budget}")}
        assert set(found.values()) <= {"", *(f"{method}_{budget}" for method in LABELS)}
        for one, other in (("diffrate", "lowrank"), ("both", "lowrank"), ("both", "diffrate")):
            test = stats.ttest_rel(ACCURACIES[one], ACCURACIES[other])
            row = table.loc[f"{one}_{budget}", f"{other}_{budget}"]
            ends = [row["difference_low"], row["difference_high"]]
            assert ends == pytest.approx(list(test.confidence_interval(0.95)))
        assert (f"lowrank_{budget}", f"both_{budget}") not in table.index


def test_without_speeds_there_is_no_panel_of_them_and_the_note_says_so(study, drawn):
    table = fig.data(study)
    assert len(drawn(EXHIBIT, table).axes) == 1
    said = "No speeds were measured: python benchmarks/inference.py --results RESULTS"
    assert said in fig.note(table)


def test_speeds_have_a_panel_and_name_the_machine(measured, drawn, lines):
    table = fig.data(measured)
    macs, speeds = drawn(EXHIBIT, table).axes
    assert list(lines(macs, "series:")) == [*LABELS, "dense"]
    assert len(lines(macs, "mark:")) == 9
    marks = lines(speeds, "mark:")
    assert "both_50" not in marks and "both_30" in marks
    assert "A fast one, 2 threads" in fig.note(table)
    assert "Without a speed: both, -50%." in fig.note(table)


def test_a_study_of_schedules_has_no_methods(results, capsys):
    assert fig.main([str(results)]) == 2
    said = f"methods: {results}: methods: got 'none', allowed: two or more\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"trials": {}}'])
def test_speeds_that_do_not_read_are_named(study, content, capsys):
    (study / "speed.json").write_text(content)
    assert fig.main([str(study)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"methods: {study}/speed.json: got a file that does not read")
    assert "allowed: the output of `python benchmarks/inference.py --results RESULTS`" in error


def test_the_summary_has_sizes_and_speeds(measured):
    (shown,) = fig.summarize(fig.data(measured)).values()
    assert list(shown)[3:7] == ["params", "MACs", "images/s", "over dense"]
    assert list(shown.iloc[0])[3:7] == ["500", "6,999", "101", "1.50"]
    assert list(shown.iloc[-1])[3:7] == ["700", "10,000", "60", "1.00"]
