import itertools

import numpy as np
import pandas as pd
import pytest

from adacomcat.cost import count_macs, count_params
from analysis import fig_accuracy_vs_cost as fig
from analysis import published, style

SHARES = (30, 50, 80)


@pytest.fixture
def sweep(tmp_path, record, write_results):
    """Two schedules at three budgets; params 700, 500, 200 for one, a little less for the other."""
    labels = {"never": "never", "adaptive": "adaptive"}
    arms = {f"{a}_{s}": f"{label}, -{s}%" for s in SHARES for a, label in labels.items()}
    records = [
        record(
            name,
            seed,
            test_acc=0.9 - int(name[-2:]) / 1000 + seed / 1000,
            searches=0,
            params=1000 - 10 * int(name[-2:]) - seed * name.startswith("adaptive"),
            macs=10_000 - 100 * int(name[-2:]),
            dense_params=1000,
            dense_macs=10_000,
        )
        for name in arms
        for seed in (0, 1, 2)
    ]
    for made in records:
        made["label"] = arms[made["arm"]]
    return write_results(tmp_path / "sweep", records, arms)


def drawn(table):
    with style.shared_style():
        panels = fig.axes(table)
        fig.draw(panels, table)
    return panels


def lines(ax, kind):
    found = {line.get_gid(): line for line in ax.lines if (line.get_gid() or "").startswith(kind)}
    return {gid.removeprefix(kind): line for gid, line in found.items()}


def note(panels):
    (text,) = (text for text in panels[0].figure.texts if text.get_gid() == "note")
    return " ".join(text.get_text().split())


def test_data_splits_arms_into_series_and_budgets(sweep):
    table = fig.data(sweep)
    assert tuple(table.columns) == fig.COLUMNS
    assert list(table["series"]) == ["never", "adaptive"] * 3
    assert list(table["series_label"]) == ["never", "adaptive"] * 3
    assert list(table["reduction"]) == [30, 30, 50, 50, 80, 80]
    one = table.set_index("arm").loc["adaptive_50"]
    assert (one["params"], one["params_min"], one["params_max"]) == (499, 498, 500)
    assert one["test_acc"] == pytest.approx(0.851)
    assert not table["published"].any()


def test_lines_join_the_budgets_of_a_schedule_in_both_panels(sweep):
    panels = drawn(fig.data(sweep))
    for ax, unit in zip(panels, (1, 10), strict=True):
        joined = lines(ax, "series:")
        assert list(joined) == ["never", "adaptive"]
        costs = 1000 - 10 * np.array(SHARES)
        # Moved aside by less than a mark, since the two schedules are at the same place.
        np.testing.assert_allclose(joined["never"].get_xdata(), unit * costs, atol=12 * unit)
        np.testing.assert_allclose(joined["never"].get_ydata(), [87.1, 85.1, 82.1])
        assert joined["never"].get_linestyle() != joined["adaptive"].get_linestyle()
        assert len(lines(ax, "mark:")) == 6
        texts = [text.get_text() for text in ax.texts if (text.get_gid() or "").startswith("label")]
        assert sorted(texts) == ["adaptive", "never"]
    assert "1,000 parameters and 10,000 MACs" in note(panels)


def test_arms_of_one_budget_have_marks_and_labels_of_their_own(results):
    panels = drawn(fig.data(results))
    assert list(lines(panels[0], "mark:")) == ["never", "fixed_1", "adaptive"]
    assert lines(panels[0], "series:") == {}
    assert "left out: every epoch (1 failed); adaptive (1 pending, 1 running)" in note(panels)


def test_a_cost_that_was_not_recorded_has_no_panel(results):
    # The records of the fixture have no MACs.
    panels = drawn(fig.data(results))
    assert len(panels) == 1 and "No macs were recorded." in note(panels)


def test_marks_of_two_schedules_at_one_place_do_not_hide_one_another(
    tmp_path, record, write_results
):
    names = {f"{arm}_{share}": arm for arm in ("never", "adaptive") for share in (30, 50)}
    made = [record(arm, 0, params=1000 - 10 * int(arm[-2:])) for arm in names]
    (ax,) = drawn(fig.data(write_results(tmp_path / "r", made, names, (0,))))
    marks = [line.get_window_extent() for line in lines(ax, "mark:").values()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(marks, 2))
    assert not lines(ax, "moved:")


def test_published_models_stand_beside_the_same_workload_alone(tmp_path, record, write_results):
    made = record("never", 0, params=11_000_000, macs=2_400_000_000) | {
        "workload": "deit_small_imagenet"
    }
    root = write_results(tmp_path / "r", [made], workload="deit_small_imagenet")
    table = fig.data(root)
    others = table[table["published"]].set_index("label")
    assert others.loc["Adaptive-ComCAT's log", "params"] == 10_991_976
    assert others.loc["Adaptive-ComCAT's log", "leakage"].startswith("LEAKAGE")
    assert others["source"].ne("").all()
    panels = drawn(table)
    # DiffRate leaves the parameters as they are.
    for ax, there in zip(panels, (2, 3), strict=True):
        marks = lines(ax, "mark:published:")
        assert len(marks) == there and ("DiffRate" in marks) == (there == 3)
        assert {line.get_markerfacecolor() for line in marks.values()} == {"white"}
    assert "Hollow marks are published: DeiT-S (README" in note(panels)
    assert "mean over 1 seed" in note(panels)
    assert published.points("digits") == ()


def test_the_published_run_itself_is_not_drawn_twice(tmp_path, record, write_results):
    log = {"params": 10_991_976, "test_acc": 0.75874, "macs": None, "dense_test_acc": None}
    made = record("adaptive", 0, **log) | {"workload": "deit_small_imagenet"}
    root = write_results(
        tmp_path / "r", [made], {"adaptive": "adaptive"}, (0,), workload="deit_small_imagenet"
    )
    table = fig.data(root)
    assert list(table["label"]) == ["adaptive", "DeiT-S", "DiffRate"]
    # Its log has no MACs; those of its ranks are known.
    assert table.loc[0, "macs"] == 2_256_399_212 and not table.loc[0, "published"]
    assert "MACs of adaptive: epoch 29 of the published run" in note(drawn(table))


@pytest.mark.parametrize("size", ["small", "base"])
def test_published_sizes_are_those_of_timms_models(size):
    import timm

    model = timm.create_model(f"deit_{size}_patch16_224", pretrained=False).eval()
    point = published.points(f"deit_{size}_imagenet")[0]
    assert (point.params, point.macs) == (count_params(model), count_macs(model, (3, 224, 224)))


def test_the_references_recipe_is_of_the_same_model_and_data():
    small = published.points("deit_small_imagenet")
    assert published.points("deit_small_imagenet_upstream") == small and small


def test_everything_is_inside_the_figure(sweep):
    panels = drawn(fig.data(sweep))
    figure = panels[0].figure
    figure.canvas.draw()
    whole = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert 0 <= whole.x0 and whole.x1 <= figure.bbox.x1
    assert 0 <= whole.y0 and whole.y1 <= figure.bbox.y1


def test_main_writes_picture_print_and_the_plotted_table(sweep, capsys):
    assert fig.main([str(sweep)]) == 0
    paths = capsys.readouterr().out.splitlines()[-3:]
    assert [path.rpartition("/")[2] for path in paths] == [
        f"accuracy_vs_cost.{kind}" for kind in ("png", "pdf", "csv")
    ]
    assert len(pd.read_csv(paths[2])) == 6
