import numpy as np
import pytest

from analysis import fig_accuracy_vs_search_time as fig
from analysis import style


@pytest.fixture
def timed(tmp_path, record, write_results):
    seconds = {"never": 0.0, "fixed_1": 20.0, "adaptive": 6.0}
    accuracies = {"never": 0.90, "fixed_1": 0.92, "adaptive": 0.92}
    records = [
        record(arm, seed, test_acc=accuracies[arm], searches=3, search_s=s + seed, rebuild_s=0.5)
        for arm, s in seconds.items()
        for seed in (0, 1, 2)
    ]
    return write_results(tmp_path / "r", records)


def drawn(table):
    with style.shared_style():
        (ax,) = fig.axes(table)
        fig.draw([ax], table)
    (text,) = (text for text in ax.figure.texts if text.get_gid() == "note")
    return ax, " ".join(text.get_text().split())


def test_seconds_are_those_of_searching_and_rebuilding(timed):
    table = fig.data(timed).set_index("arm")
    assert table["searching_s"].to_dict() == {"never": 1.5, "fixed_1": 21.5, "adaptive": 7.5}
    assert list(table.loc["adaptive", ["searching_s_min", "searching_s_max"]]) == [6.5, 8.5]
    # As accurate as every epoch in less time, so that every epoch is not on the front.
    assert table["on_front"].to_dict() == {"never": True, "fixed_1": False, "adaptive": True}
    assert table["rebuild_known"].all()


def test_the_front_is_drawn_and_named(timed):
    ax, note = drawn(fig.data(timed))
    (front,) = (line for line in ax.lines if line.get_gid() == "front")
    np.testing.assert_allclose(front.get_xdata(), [1.5, 7.5, 7.5])
    assert "(rings, stepped line): never (uniform ranks); adaptive." in note
    assert "searching and of putting the plans in force" in note


def test_a_log_without_the_time_of_rebuilding_says_so(tmp_path, record, write_results):
    made = record("adaptive", 0, search_s=20_000.0, rebuild_s=None, dense_test_acc=None)
    root = write_results(tmp_path / "r", [made], {"adaptive": "adaptive"}, (0,))
    table = fig.data(root)
    assert table.loc[0, "searching_s"] == 20_000 and not table.loc[0, "rebuild_known"]
    ax, note = drawn(table)
    assert "Seconds of searching alone, on the machine" in note and "No interval" in note
    assert ax.get_xlim()[1] > 20_000 and len(ax.get_xticks()) >= 2


def test_a_study_without_clocks_is_refused(results):
    # The records of the fixture have no seconds.
    with pytest.raises(ValueError, match="search_s.*finished trials that recorded"):
        fig.data(results)


def test_main_writes_picture_print_and_the_plotted_table(timed, capsys):
    assert fig.main([str(timed)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in said[-3:]] == [
        f"accuracy_vs_search_time.{kind}" for kind in ("png", "pdf", "csv")
    ]
    assert "21.5" in said[2]
