import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from analysis import fig_accuracy_vs_searches as fig
from analysis import scatter, stats, style

ROOT = Path(__file__).parents[2]
ARMS = ("never", "once", "fixed_8", "fixed_4", "fixed_2", "fixed_1", "adaptive", "oracle")
LABELS = (
    "never (uniform ranks)",
    "once",
    "every 8 epochs",
    "every 4 epochs",
    "every 2 epochs",
    "every epoch",
    "adaptive",
    "oracle (hindsight)",
)
COUNTS = (0, 1, 4, 8, 15, 29, 6, 6)


LEAK = "LEAKAGE: the rank search saw the images that are reported on"


def table(accuracies, counts=COUNTS, half=0.005, dense=0.97, **columns):
    accuracies = np.array(accuracies, dtype=float)
    counts = counts[: len(accuracies)]
    return pd.DataFrame(
        {
            "arm": ARMS[: len(accuracies)],
            "label": LABELS[: len(accuracies)],
            "workload": "digits",
            "seeds": 3,
            "searches": counts,
            "searches_min": counts,
            "searches_max": counts,
            "test_acc": accuracies,
            "test_acc_low": accuracies - half,
            "test_acc_high": accuracies + half,
            "params": 50_000.0,
            "dense_test_acc": dense,
            "reduction": np.nan,
            "on_front": stats.on_front(counts, accuracies),
            "left_out": 0,
            "left_out_why": "",
            "leakage": "",
            **columns,
        }
    )


def missing():
    made = table([0.95, 0.96, 0.962, np.nan, 0.961, 0.963, 0.962, np.nan])
    gone = made["test_acc"].isna()
    made.loc[gone, ["searches", "searches_min", "searches_max", "params", "dense_test_acc"]] = (
        np.nan
    )
    made.loc[gone, ["seeds", "left_out"]] = 0, 3
    made.loc[gone, "left_out_why"] = "3 failed"
    return made


HARD = {
    "spread": table([0.93, 0.962, 0.964, 0.966, 0.967, 0.968, 0.966, 0.967]),
    "all within 0.3 points": table(
        [0.9600, 0.9610, 0.9615, 0.9620, 0.9612, 0.9630, 0.9618, 0.9618],
        dense=0.9625,
        searches_min=(0, 1, 4, 8, 15, 29, 5, 5),
        searches_max=(0, 1, 4, 8, 15, 29, 8, 8),
    ),
    "all equal": table([0.96] * 8, half=0.01, dense=0.96),
    "equal counts": table(0.96 + 0.0001 * np.arange(8), counts=(6,) * 8),
    "equal counts and accuracies": table([0.96] * 8, counts=(6,) * 8, half=0.0),
    "one seed": table([0.96] * 8, seeds=1, test_acc_low=np.nan, test_acc_high=np.nan),
    "missing arms": missing(),
    "one arm": table([0.96], counts=(0,)),
    "wide intervals": table([0.99] * 8, half=0.2, dense=0.995),
    "all leak": table([0.96] * 8, leakage=LEAK),
    "a rising front": table(0.95 + 0.0015 * np.sqrt(COUNTS)),
    "no dense model": table([0.96] * 8, dense=np.nan),
    "far from zero": table(0.96 + 0.0005 * np.arange(8), counts=(40, 41, 41, 41, 42, 43, 43, 60)),
}


@pytest.fixture
def drawn(request):
    with style.shared_style():
        (ax,) = fig.axes(HARD[request.param])
        fig.draw([ax], HARD[request.param])
        yield ax, HARD[request.param]


def boxes(ax):
    """The boxes of the labels' text and of the marks, by arm or label, as they are rendered."""
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    texts = {
        t.get_gid().removeprefix("label:"): Text.get_window_extent(t, renderer)
        for t in ax.texts
        if t.get_gid()
    }
    marks = {
        line.get_gid().removeprefix("mark:"): line.get_window_extent(renderer)
        for line in ax.lines
        if (line.get_gid() or "").startswith("mark:")
    }
    return texts, marks


@pytest.mark.parametrize("drawn", HARD, indirect=True)
def test_labels_overlap_neither_labels_nor_marks(drawn):
    ax, shown = drawn[0], drawn[1][drawn[1]["seeds"] > 0]
    texts, marks = boxes(ax)
    assert list(texts) == list(shown["label"])
    assert list(marks) == list(shown["arm"])
    for one, other in itertools.combinations(texts.values(), 2):
        assert not one.overlaps(other)
    for text, mark in itertools.product(texts.values(), marks.values()):
        assert not text.overlaps(mark)
    for one, other in itertools.combinations(marks.values(), 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("drawn", HARD, indirect=True)
def test_everything_is_inside_the_figure(drawn):
    ax = drawn[0]
    texts, marks = boxes(ax)
    frame = ax.get_window_extent()
    for box in [*texts.values(), *marks.values()]:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1
    renderer = ax.figure.canvas.get_renderer()
    whole, page = ax.get_tightbbox(renderer), ax.figure.bbox
    assert 0 <= whole.x0 and whole.x1 <= page.x1
    assert 0 <= whole.y0 and whole.y1 <= page.y1


@pytest.mark.parametrize("drawn", ["all within 0.3 points"], indirect=True)
def test_marks_stand_at_their_accuracy_and_near_their_count(drawn):
    ax, shown = drawn
    _, marks = boxes(ax)
    for _, arm in shown.iterrows():
        at = ax.transData.transform((arm["searches"], 100 * arm["test_acc"]))
        box = marks[arm["arm"]]
        # The box of a star or a pentagon is not centered on it; a point is 1/72 inch.
        assert abs((box.y0 + box.y1) / 2 - at[1]) < 2 * ax.figure.dpi / 72
        assert abs((box.x0 + box.x1) / 2 - at[0]) < scatter.MARK_PT * ax.figure.dpi / 72


@pytest.mark.parametrize("drawn", ["spread"], indirect=True)
def test_counts_are_spread_by_their_square_roots(drawn):
    ax, _ = drawn
    at = ax.transData.transform([(count, 95) for count in (0, 1, 4, 9, 16)])[:, 0]
    np.testing.assert_allclose(np.diff(at), np.diff(at)[0])
    assert {0, 1, 2, 4, 6, 8, 15} <= set(ax.get_xticks())


@pytest.mark.parametrize("drawn", ["far from zero"], indirect=True)
def test_counts_far_from_zero_and_near_one_another_fill_the_axes(drawn):
    ax, shown = drawn
    assert 35 < ax.get_xlim()[0] < 40 and 60 < ax.get_xlim()[1] < 65
    assert len(ax.get_xticks()) >= 3


@pytest.mark.parametrize("drawn", HARD, indirect=True)
def test_marks_keep_the_order_of_their_counts(drawn):
    ax, shown = drawn[0], drawn[1][drawn[1]["seeds"] > 0]
    _, marks = boxes(ax)
    middles = np.array([(box.x0 + box.x1) / 2 for box in marks.values()])
    counts = shown["searches"].to_numpy()
    before = counts[:, None] < counts
    # A star's or a triangle's box is not centered on it.
    assert ((middles[None] - middles[:, None])[before] > -2 * ax.figure.dpi / 72).all()


def test_marks_far_apart_in_height_stay_at_their_count():
    made = table([0.90, 0.99], counts=(6, 6), half=0.001)
    with style.shared_style():
        (ax,) = fig.axes(made)
        fig.draw([ax], made)
    low, high = boxes(ax)[1].values()
    assert (low.x0 + low.x1) / 2 == pytest.approx((high.x0 + high.x1) / 2, abs=1)


def test_a_bracket_says_where_moved_marks_truly_are():
    made = table([0.95, 0.951, 0.952, 0.97], counts=(7, 7, 7, 19), half=0.01)
    with style.shared_style():
        (ax,) = fig.axes(made)
        fig.draw([ax], made)
    assert [text.get_text() for text in ax.texts if "truly" in text.get_text()] == ["truly at 7"]
    (bracket,) = (line for line in ax.lines if "moved:" in (line.get_gid() or ""))
    left, right = bracket.get_window_extent().x0, bracket.get_window_extent().x1
    assert left < ax.transData.transform((7, 95))[0] < right


def fronts(ax):
    """The corners of each stepped line, as (searches, accuracy in %)."""
    lines = [line for line in ax.lines if line.get_gid() == "front"]
    return [np.round(line.get_xydata(), 3).tolist() for line in lines]


def test_the_front_is_a_staircase_through_the_arms_that_no_other_beats():
    made = table([0.95, 0.96, 0.955, 0.97], counts=(0, 1, 10, 20), half=0.0)
    assert made["on_front"].tolist() == [True, True, False, True]
    with style.shared_style():
        (ax,) = fig.axes(made)
        fig.draw([ax], made)
    assert fronts(ax) == [[[0, 95], [1, 95], [1, 96], [20, 96], [20, 97]]]
    assert "(rings, stepped line): never (uniform ranks); once; every 4 epochs." in note(ax)


def test_the_arms_on_the_front_are_ringed_also_a_lone_one():
    made = table([0.97, 0.96, 0.98], counts=(0, 1, 10), half=0.0)
    for front, expected in ((made, ["never", "fixed_8"]), (made[:2], ["never"])):
        with style.shared_style():
            (ax,) = fig.axes(front)
            fig.draw([ax], front)
        gids = [line.get_gid() or "" for line in ax.lines]
        assert [gid[5:] for gid in gids if gid.startswith("ring:")] == expected
        _, marks = boxes(ax)
        assert "(ring" in note(ax)


def test_each_budget_has_a_panel_with_its_arms_and_its_front():
    shares = (30, 30, 50, 50, 80)
    made = table([0.95, 0.96, 0.93, 0.94, 0.9], counts=(0, 6, 0, 6, 0), reduction=shares)
    made["label"] = [f"arm {index}, -{share}%" for index, share in enumerate(shares)]
    made["on_front"] = [True, True, True, True, True]
    with style.shared_style():
        panels = fig.axes(made)
        fig.draw(panels, made)
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles == ["reduction 30 %", "reduction 50 %", "reduction 80 %"]
    assert [list(boxes(ax)[0]) for ax in panels] == [
        ["arm 0", "arm 1"],
        ["arm 2", "arm 3"],
        ["arm 4"],
    ]
    assert fronts(panels[1]) == [[[0, 93], [6, 93], [6, 94]]]
    assert len({ax.get_xlim() for ax in panels}) == 1
    assert "of each budget" in note(panels[0])
    whole = panels[0].figure.get_tightbbox()
    assert whole.x0 >= 0 and whole.x1 <= panels[0].figure.get_figwidth()


@pytest.mark.parametrize("drawn", ["no dense model"], indirect=True)
def test_without_a_dense_model_there_is_no_line_for_it(drawn):
    assert not any("dense" in text.get_text() for text in drawn[0].texts)


@pytest.mark.parametrize("drawn", ["spread"], indirect=True)
def test_arms_differ_without_color(drawn):
    markers = [line.get_marker() for line in drawn[0].lines if "mark:" in (line.get_gid() or "")]
    assert len(set(markers)) == len(markers) == 8


def note(ax):
    (text,) = (text for text in ax.figure.texts if text.get_gid() == "note")
    return " ".join(text.get_text().split())


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        ("spread", ["mean over 3 seeds, bars: 95 % t interval.", "left out: none"]),
        ("one seed", ["mean over 1 seed.", "No interval: fewer than 3 seeds."]),
        ("missing arms", ["every 4 epochs (3 failed); oracle (hindsight) (3 failed)"]),
        ("all within 0.3 points", ["fewest to most searches of a seed", "moved apart"]),
    ],
    indirect=["drawn"],
)
def test_the_note_says_what_the_marks_mean(drawn, said):
    for part in said:
        assert part in note(drawn[0])


def test_an_arm_with_two_seeds_is_named_as_without_interval():
    made = table([0.95, 0.96])
    made.loc[1, ["seeds", "test_acc_low", "test_acc_high"]] = 2, np.nan, np.nan
    with style.shared_style():
        (ax,) = fig.axes(made)
        fig.draw([ax], made)
    assert "mean over 2 to 3 seeds, bars" in note(ax)
    assert "No interval for once: fewer than 3 seeds." in note(ax)


def test_arms_without_interval_keep_their_own_mean_when_others_are_missing():
    made = missing()
    made.loc[4:, ["test_acc_low", "test_acc_high"]] = np.nan
    with style.shared_style():
        (ax,) = fig.axes(made)
        fig.draw([ax], made)
    spans = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2]
    upright = [tuple(span) for span in spans if span[0] != span[1]]
    # The intervals of the first three arms; the others have nothing to show.
    assert upright == [(94.5, 95.5), (95.5, 96.5), pytest.approx((95.7, 96.7))]
    low, high = ax.get_ylim()
    assert low > 90 and high < 100


def test_the_note_says_that_arms_differ_in_size():
    with style.shared_style():
        (one,) = fig.axes(table([0.95, 0.96], params=(14378.0, 8706.67)))
        (other,) = fig.axes(table([0.95, 0.96]))
    assert "Mean of an arm: 8,707 to 14,378 parameters." in note(one)
    assert "Mean of an arm: 50,000 parameters." in note(other)


def test_data_sums_up_each_arm(results):
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


def test_a_study_without_a_finished_trial_is_refused(tmp_path, record, write_results):
    results = write_results(tmp_path / "r", [record("never", 0, status="failed")])
    with pytest.raises(ValueError, match="1 failed, 8 pending.*a finished trial"):
        fig.data(results)


def test_main_writes_picture_print_and_the_plotted_table(results, capsys):
    assert fig.main([str(results)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == "arm seeds test accuracy % searches params front left out".split()
    # Half of the interval of 0.91, 0.92, 0.93 is t(0.975, 2) * 0.01 / sqrt(3).
    assert "92.00 ± 2.48" in said[1]
    assert "±" not in said[2] and "1 failed" in said[2]
    assert said[4].startswith("dense model 97.00% test accuracy")
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


@pytest.mark.parametrize("how", [["-m", "analysis.fig_accuracy_vs_searches"], ["SCRIPT"]])
def test_it_runs_as_module_and_as_script_from_anywhere(how, results, tmp_path):
    script = str(ROOT / "analysis" / "fig_accuracy_vs_searches.py")
    command = [sys.executable, *(script if part == "SCRIPT" else part for part in how)]
    done = subprocess.run(
        [*command, str(results)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(".csv")


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
    found = fig.data(root).set_index("arm")["leakage"]
    assert found.to_dict() == {"never": "", "fixed_1": LEAK, "adaptive": ""}
    assert fig.main([str(root)]) == 0
    plotted = pd.read_csv(root / "figures" / "accuracy_vs_searches.csv").set_index("arm")
    assert plotted.loc["fixed_1", "leakage"] == LEAK
    assert LEAK in fig.as_text(fig.data(root)).splitlines()
    with style.shared_style():
        (ax,) = fig.axes(fig.data(root))
    assert f"{LEAK} (every epoch)." in note(ax)
