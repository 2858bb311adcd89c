import numpy as np
import pytest

from analysis import fig_accuracy_vs_cost as fig

SHARES = (30, 50, 80)
(EXHIBIT,) = fig.EXHIBITS


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, record, write_results):
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
    return write_results(tmp_path_factory.mktemp("sweep"), records, arms)


def test_data_splits_arms_into_series_and_budgets(sweep):
    table = fig.data(sweep)
    assert tuple(table.columns) == fig.COLUMNS
    assert list(table["series"]) == ["never", "adaptive"] * 3
    assert list(table["reduction"]) == [30, 30, 50, 50, 80, 80]
    one = table.set_index("arm").loc["adaptive_50"]
    assert (one["params"], one["params_min"], one["params_max"]) == (499, 498, 500)
    assert one["test_acc"] == pytest.approx(0.851)


def test_lines_join_the_budgets_of_a_schedule_in_both_panels(sweep, drawn, lines):
    table = fig.data(sweep)
    figure = drawn(EXHIBIT, table)
    for ax, unit in zip(figure.axes, (1, 10), strict=True):
        joined = lines(ax, "series:")
        assert list(joined) == ["never", "adaptive"]
        costs = unit * (1000 - 10 * np.array(SHARES))
        np.testing.assert_allclose(joined["never"].get_xdata(), costs)
        np.testing.assert_allclose(joined["never"].get_ydata(), [87.1, 85.1, 82.1])
        assert joined["never"].get_linestyle() != joined["adaptive"].get_linestyle()
        assert len(lines(ax, "mark:")) == 6
    # A legend entry per series, without its budgets.
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["never", "adaptive"]
    assert "1,000 parameters and 10,000 MACs" in fig.note(table)


def test_a_cost_that_was_not_recorded_has_no_panel(results, drawn, lines):
    # The records of the fixture have no MACs.
    table = fig.data(results)
    (ax,) = drawn(EXHIBIT, table).axes
    assert list(lines(ax, "mark:")) == ["never", "fixed_1", "adaptive"]
    assert "No macs were recorded." in fig.note(table)
    assert "left out: every epoch (1 failed); adaptive (1 pending, 1 running)" in fig.note(table)


def test_the_summary_has_a_row_per_arm(sweep, results):
    (shown,) = fig.summarize(fig.data(sweep)).values()
    assert list(shown) == ["arm", "seeds", "test accuracy %", "params", "MACs", "left out"]
    assert list(shown["params"])[:2] == ["700", "699"] and list(shown["MACs"])[-1] == "2,000"
    assert "MACs" not in next(iter(fig.summarize(fig.data(results)).values()))
