import json

import pandas as pd
import pytest
from scipy import stats

from analysis import fig_methods as fig
from analysis import style

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
            records.append(made | {"label": label})
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


def drawn(table):
    with style.shared_style():
        panels = fig.axes(table)
        fig.draw(panels, table)
        panels[0].figure.canvas.draw()
    return panels


def note(panels):
    (text,) = (text for text in panels[0].figure.texts if text.get_gid() == "note")
    return " ".join(text.get_text().split())


def gids(ax, kind):
    found = ((line.get_gid() or "") for line in ax.lines)
    return [gid.removeprefix(kind) for gid in found if gid.startswith(kind)]


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


def test_differences_are_paired_by_seed_at_the_same_budget(study):
    table = fig.data(study).set_index("arm")
    for method, others in fig.PAIRS.items():
        for other in others:
            test = stats.ttest_rel(ACCURACIES[method], ACCURACIES[other])
            low, high = test.confidence_interval(0.95)
            for budget in BUDGETS:
                row = table.loc[f"{method}_{budget}"]
                found = [row[f"less_{other}{end}"] for end in ("_low", "_high")]
                assert found == pytest.approx([low, high])
    assert table.loc[["lowrank_30", "uniform_50", "dense"], "less_lowrank"].isna().all()


def test_without_speeds_there_is_no_panel_of_them_and_the_note_says_so(study):
    panels = drawn(fig.data(study))
    assert len(panels) == 2
    assert "No speeds were measured: python benchmarks/inference.py --results RESULTS" in note(
        panels
    )
    assert len(gids(panels[1], "difference:")) == 8


def test_speeds_have_a_panel_and_name_the_machine(measured):
    panels = drawn(fig.data(measured))
    assert len(panels) == 3
    assert gids(panels[0], "series:") == [*LABELS, "dense"]
    assert len(gids(panels[0], "mark:")) == 9
    assert "both_50" not in gids(panels[1], "mark:") and "both_30" in gids(panels[1], "mark:")
    assert "A fast one, 2 threads" in note(panels)
    assert "Without a speed: both, -50%." in note(panels)


def test_everything_is_inside_the_figure(measured):
    panels = drawn(fig.data(measured))
    figure = panels[0].figure
    whole = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert 0 <= whole.x0 and whole.x1 <= figure.bbox.x1
    assert 0 <= whole.y0 and whole.y1 <= figure.bbox.y1


def test_a_study_of_schedules_has_no_methods(results, capsys):
    assert fig.main([str(results)]) == 2
    allowed = "allowed: two or more of both, diffrate, lowrank, uniform"
    assert capsys.readouterr().err == f"methods: {results}: methods: got 'none', {allowed}\n"


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"trials": {}}'])
def test_speeds_that_do_not_read_are_named(study, content, capsys):
    (study / "speed.json").write_text(content)
    assert fig.main([str(study)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"methods: {study}/speed.json: got a file that does not read")
    assert "allowed: what `python benchmarks/inference.py --results RESULTS` writes" in error


def test_main_writes_picture_print_and_the_plotted_table(measured, capsys):
    assert fig.main([str(measured)]) == 0
    said = capsys.readouterr().out
    paths = said.splitlines()[-3:]
    assert [path.rpartition("/")[2] for path in paths] == [
        f"methods.{kind}" for kind in ("png", "pdf", "csv")
    ]
    assert "both less low-rank, -30 % +2.50 +1.26 +3.74" in " ".join(said.split())
    assert len(pd.read_csv(paths[2])) == 9
