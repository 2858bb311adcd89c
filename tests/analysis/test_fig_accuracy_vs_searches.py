import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import fig_accuracy_vs_searches as fig
from study.pareto import on_front

ROOT = Path(__file__).parents[2]
ARMS = {
    "never": "never (uniform ranks)",
    "once": "once",
    "fixed_8": "every 8 epochs",
    "fixed_1": "every epoch",
    "adaptive": "adaptive",
    "oracle": "oracle (hindsight)",
}
LEAK = "LEAKAGE: the rank search saw the images that are reported on"
SEARCHES, TIME = fig.EXHIBITS


def table(accuracies, counts, half=0.005, dense=0.97, **columns):
    accuracies = np.array(accuracies, dtype=float)
    points = np.column_stack([counts, -accuracies])
    return pd.DataFrame(
        {
            "arm": list(ARMS)[: len(accuracies)],
            "label": list(ARMS.values())[: len(accuracies)],
            "series": list(ARMS)[: len(accuracies)],
            "workload": "digits",
            "seeds": 3,
            **{f"{cost}{end}": counts for cost in ("searches", "searching_s") for end in ENDS},
            "rebuild_known": True,
            "test_acc": accuracies,
            "test_acc_low": accuracies - half,
            "test_acc_high": accuracies + half,
            "params": 50_000.0,
            "dense_test_acc": dense,
            "reduction": np.nan,
            "on_front": on_front(points),
            "left_out": 0,
            "left_out_why": "",
            "leakage": "",
            **columns,
        }
    )


ENDS = ("", "_min", "_max")


def test_marks_stand_at_their_arms_on_a_square_root_scale(drawn, lines):
    made = table([0.93, 0.962, 0.964, 0.967, 0.966], counts=(0, 1, 4, 29, 6))
    ax = drawn(SEARCHES, made).axes[0]
    marks = lines(ax, "mark:")
    assert list(marks) == list(ARMS)[:5]
    np.testing.assert_allclose([m.get_xdata()[0] for m in marks.values()], made["searches"])
    np.testing.assert_allclose([m.get_ydata()[0] for m in marks.values()], 100 * made["test_acc"])
    at = ax.transData.transform([(count, 95) for count in (0, 1, 4, 9, 16)])[:, 0]
    np.testing.assert_allclose(np.diff(at), np.diff(at)[0])
    assert len({mark.get_marker() for mark in marks.values()}) == 5
    assert [text.get_text() for text in ax.texts] == ["dense 97.0 %"]
    spans = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2]
    assert (92.5, 93.5) in [tuple(np.round(span, 6)) for span in spans]


def test_marks_at_one_place_stand_side_by_side_and_none_is_opaque(drawn, lines):
    made = table([0.96, 0.96, 0.97], counts=(6, 6, 7), dense=np.nan)
    ax = drawn(SEARCHES, made).axes[0]
    one, other, third = lines(ax, "mark:").values()
    left, right = (mark.get_xdata()[0] for mark in (one, other))
    assert left < 6 < right < 6.3 and third.get_xdata()[0] == pytest.approx(7)
    assert max(mark.get_alpha() for mark in (one, other, third)) < 1
    assert not ax.texts  # No dense model, no line for it.


def test_the_front_is_a_staircase_through_the_arms_that_no_other_dominates(drawn, lines):
    made = table([0.95, 0.96, 0.955, 0.97], counts=(0, 1, 10, 20), half=0.0)
    figure = drawn(SEARCHES, made)
    front = lines(figure.axes[0])["front"]
    np.testing.assert_allclose(front.get_xydata(), [[0, 95], [1, 96], [20, 97]])
    assert front.get_drawstyle() == "steps-post"
    assert "(stepped line, *): never (uniform ranks); once; every epoch." in SEARCHES.note(made)
    shown = SEARCHES.summary(made)[""]
    assert list(shown["front"]) == ["*", "*", "", "*"]


def test_each_budget_has_a_panel_with_its_arms(drawn, lines):
    shares = (30, 30, 50, 50, 80)
    made = table([0.95, 0.96, 0.93, 0.94, 0.9], counts=(0, 6, 0, 6, 0), reduction=shares)
    panels = drawn(SEARCHES, made).axes
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles == ["reduction 30 %", "reduction 50 %", "reduction 80 %"]
    names = list(ARMS)
    assert [list(lines(ax, "mark:")) for ax in panels] == [names[:2], names[2:4], names[4:5]]
    assert "of each budget" in SEARCHES.note(made)


def test_arms_without_a_finished_trial_are_named_and_not_drawn(drawn, lines):
    made = table([0.95, np.nan], counts=(0, np.nan), seeds=(3, 0))
    made.loc[1, ["left_out", "left_out_why"]] = 3, "3 failed"
    figure = drawn(SEARCHES, made)
    assert list(lines(figure.axes[0], "mark:")) == ["never"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["never (uniform ranks)"]
    assert "once (3 failed)" in SEARCHES.note(made)


def test_the_note_says_how_arms_differ_in_size_and_seeds():
    made = table([0.95, 0.96], counts=(0, 1), params=(14378.0, 8706.67))
    assert "Mean of an arm: 8,707 to 14,378 parameters." in SEARCHES.note(made)
    made.loc[1, ["seeds", "test_acc_low", "test_acc_high"]] = 2, np.nan, np.nan
    assert "mean over 2 to 3 seeds, bars: 95 % t interval." in SEARCHES.note(made)
    assert "No interval for once: fewer than 3 seeds." in SEARCHES.note(made)
    assert "range over the seeds" not in SEARCHES.note(made)
    made["searches_max"] += 2
    assert "range over the seeds" in SEARCHES.note(made)


def test_data_summarizes_each_arm(results):
    made = fig.data(results).set_index("arm")
    assert list(made.index) == ["never", "fixed_1", "adaptive"]
    never, fixed, adaptive = (made.loc[arm] for arm in made.index)
    assert never["test_acc"] == pytest.approx(0.92)
    # s = 0.01, n = 3, t(0.975, 2) = 4.3027.
    half = 4.3027 * 0.01 / 3**0.5
    ends = never["test_acc_low"], never["test_acc_high"]
    assert ends == pytest.approx((0.92 - half, 0.92 + half), abs=1e-6)
    assert (never["seeds"], never["left_out"], never["left_out_why"]) == (3, 0, "")
    assert (fixed["seeds"], fixed["searches"], fixed["left_out_why"]) == (2, 29, "1 failed")
    assert np.isnan(fixed["test_acc_low"])
    assert (adaptive["test_acc"], adaptive["params"]) == (0.94, 2000)
    assert (adaptive["left_out"], adaptive["left_out_why"]) == (2, "1 pending, 1 running")
    assert list(made["dense_test_acc"]) == pytest.approx([0.97] * 3)
    # 0.94 with 6 searches, 0.95 with 29.
    assert list(made["on_front"]) == [True, True, True]


def test_counts_that_differ_between_seeds_keep_their_range(tmp_path, record, write_results):
    records = [record("adaptive", seed, searches=n) for seed, n in enumerate((5, 6, 10))]
    made = fig.data(write_results(tmp_path / "r", records, arms={"adaptive": "adaptive"}))
    assert made.loc[0, ["searches_min", "searches", "searches_max"]].tolist() == [5, 7, 10]


@pytest.fixture(scope="module")
def timed(tmp_path_factory, record, write_results):
    seconds = {"never": 0.0, "fixed_1": 20.0, "adaptive": 6.0}
    accuracies = {"never": 0.90, "fixed_1": 0.92, "adaptive": 0.92}
    records = [
        record(arm, seed, test_acc=accuracies[arm], searches=3, search_s=s + seed, rebuild_s=0.5)
        for arm, s in seconds.items()
        for seed in (0, 1, 2)
    ]
    return write_results(tmp_path_factory.mktemp("timed"), records)


def test_seconds_are_those_of_searching_and_rebuilding(timed, drawn, lines):
    whole = TIME.data(timed)
    made = whole.set_index("arm")
    assert made["searching_s"].to_dict() == {"never": 1.5, "fixed_1": 21.5, "adaptive": 7.5}
    assert list(made.loc["adaptive", ["searching_s_min", "searching_s_max"]]) == [6.5, 8.5]
    # As accurate as every epoch in less time, so that every epoch is not on the front.
    assert made["on_front"].to_dict() == {"never": True, "fixed_1": False, "adaptive": True}
    front = lines(drawn(TIME, whole).axes[0])["front"]
    np.testing.assert_allclose(front.get_xdata(), [1.5, 7.5])
    assert "searching and rebuilding" in TIME.note(whole)


def test_a_log_without_the_time_of_rebuilding_says_so(tmp_path, record, write_results):
    made = record("adaptive", 0, search_s=20_000.0, rebuild_s=None, dense_test_acc=None)
    root = write_results(tmp_path / "r", [made], {"adaptive": "adaptive"}, (0,))
    found = TIME.data(root)
    assert found.loc[0, "searching_s"] == 20_000 and not found.loc[0, "rebuild_known"]
    assert "Time of searching, on the machine" in TIME.note(found)


def test_a_study_without_clocks_has_no_search_time(results):
    # The records of the fixture have no seconds.
    with pytest.raises(ValueError, match="search_s.*finished trials that recorded"):
        TIME.data(results)


def test_a_study_without_a_finished_trial_is_refused(tmp_path, record, write_results):
    results = write_results(tmp_path / "r", [record("never", 0, status="failed")])
    with pytest.raises(ValueError, match="1 failed, 8 pending.*a finished trial"):
        fig.data(results)


def test_main_writes_picture_print_and_the_plotted_table(results, capsys):
    assert fig.main([str(results)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == "arm seeds test accuracy % searches params left out front".split()
    # Half of the interval of 0.91, 0.92, 0.93 is t(0.975, 2) * 0.01 / sqrt(3).
    assert "92.00 ± 2.48" in said[1]
    assert "±" not in said[2] and "1 failed" in said[2]
    assert "Dense model: 97.00%." in " ".join(said)
    paths = [Path(line) for line in said[-3:]]
    assert paths == [
        results / "figures" / f"accuracy_vs_searches.{kind}" for kind in ("png", "pdf", "csv")
    ]
    written, plotted = pd.read_csv(paths[2]), fig.data(results)
    texts = ["left_out_why", "leakage"]
    plotted[texts] = plotted[texts].replace("", np.nan)
    pd.testing.assert_frame_equal(written, plotted, check_dtype=False)
    gray = np.asarray(Image.open(paths[0]).convert("L"))
    # Ink on white paper, also without color.
    assert gray[0, 0] == 255 and 0.005 < (gray < 128).mean() < 0.2


def test_the_cost_is_a_parameter_of_the_command(timed, capsys):
    assert fig.main([str(timed), "--draw", "accuracy_vs_search_time"]) == 0
    assert (timed / "figures" / "accuracy_vs_search_time.png").is_file()
    assert "21.5" in capsys.readouterr().out


HOSTILE = {
    "MPLBACKEND": "module://not_installed.backend",
    "PYTHONIOENCODING": "ascii",
    "MPLCONFIGDIR": "/proc/nowhere",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
}
MATPLOTLIBRC = "backend: qtagg\ntext.usetex: True\nsavefig.format: svg\nfigure.dpi: 7\n"


def test_it_runs_from_anywhere_in_any_environment(results, tmp_path):
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC)
    script = str(ROOT / "analysis" / "fig_accuracy_vs_searches.py")
    done = subprocess.run(
        [sys.executable, script, str(results)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | HOSTILE | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "92.00 +/- 2.48" in done.stdout and done.stdout.splitlines()[-1].endswith(".csv")
    assert Image.open(results / "figures" / "accuracy_vs_searches.png").size[0] > 1000


def test_main_names_what_is_wrong(tmp_path, capsys):
    assert fig.main([str(tmp_path / "absent")]) == 2
    said = capsys.readouterr()
    assert "absent" in said.err and "study.json" in said.err and "Traceback" not in said.err
    assert said.out == ""


def test_leakage_is_said_in_table_figure_and_text(record, write_results, tmp_path):
    records = [record(arm, s) for arm in ("never", "fixed_1") for s in range(3)]
    for entry in records[3:]:
        entry["leakage"] = ["search"]
    root = write_results(tmp_path / "results", records)
    found = fig.data(root)
    assert found.set_index("arm")["leakage"].to_dict() == {
        "never": "",
        "fixed_1": LEAK,
        "adaptive": "",
    }
    assert SEARCHES.note(found).startswith(f"{LEAK} (every epoch).")
