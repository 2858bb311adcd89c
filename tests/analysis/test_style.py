import os
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis import style
from experiments.adaptive_vs_fixed import experiment
from experiments.methods_compared import experiment as methods_compared
from experiments.workloads import workloads


def test_every_arm_of_the_main_experiment_has_a_look_of_its_own():
    arms = [arm.name for arm in experiment(workloads()[0]).arms]
    assert set(arms) <= set(style.LOOKS)
    assert len({style.look(arm).marker for arm in arms}) == len(arms)
    assert len({style.look(arm).color for arm in arms}) == len(arms)


def test_every_method_has_a_look_of_its_own():
    arms = [arm.name for arm in methods_compared(workloads()[0]).arms]
    looks = {style.look(arm) for arm in [*arms, "dense"]}
    assert looks < {*style.LOOKS.values()} and len(looks) == 5
    assert len({look.marker for look in looks}) == len({look.color for look in looks}) == 5


def test_fixed_schedules_darken_the_more_often_they_search():
    def lightness(color):
        red, green, blue = matplotlib.colors.to_rgb(color)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = [lightness(style.look(f"fixed_{every}").color) for every in (8, 4, 2, 1)]
    assert shades == sorted(shades, reverse=True)
    assert min(a - b for a, b in zip(shades, shades[1:], strict=False)) > 0.1


def test_an_unknown_arm_looks_the_same_in_every_process():
    code = "from analysis.style import look; print([look(f'arm_{i}') for i in range(9)])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{[style.look(f'arm_{i}') for i in range(9)]}\n"}
    assert len(set(next(iter(seen)).split("Look")[1:])) > 4


def test_shared_style_leaves_no_trace():
    before = dict(matplotlib.rcParams)
    with style.shared_style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_same_drawing_gives_the_same_bytes(tmp_path):
    table = pd.DataFrame({"arm": ["a"], "test_acc": [0.1 + 0.2]})
    written = []
    for folder in ("one", "two"):
        with style.shared_style():
            ax = style.new_axes()
            ax.plot([0, 1], [0, 1], label="text")
            written.append(style.save(ax, table, tmp_path / folder, "figure"))
    assert [path.name for path in written[0]] == ["figure.png", "figure.pdf", "figure.csv"]
    for one, two in zip(*written, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert written[0][0].read_bytes().startswith(b"\x89PNG")
    assert written[0][1].read_bytes().startswith(b"%PDF")
    # With all digits, so that floats come back as they were.
    assert written[0][2].read_text() == "arm,test_acc\na,0.30000000000000004\n"


def test_a_last_number_is_no_part_of_a_known_name():
    assert style.look("adaptive_30") == style.look("adaptive")
    assert style.look("fixed_1_80") == style.look("fixed_1")
    assert style.look("random_1") == style.look("random_3") == style.LOOKS["random"]
    assert style.look("fixed_4") != style.look("fixed_1")
    assert style.look("fixed_16") not in style.LOOKS.values()


def test_new_figure_places_its_axes_in_inches():
    with style.shared_style():
        axes = style.new_figure(
            2,
            2,
            width=8,
            height=4,
            left=1,
            right=0.5,
            top=0.5,
            below=0.6,
            across=0.5,
            down=1,
            widths=(1, 2),
            heights=(2, 1),
        )
    assert axes.shape == (2, 2)
    figure = axes[0, 0].figure
    assert figure.get_figwidth() == 8 and figure.get_figheight() == pytest.approx(5.1)
    boxes = [
        ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted()) for ax in axes.flat
    ]
    assert boxes[0].bounds == pytest.approx((1, 2.6, 2, 2))
    assert boxes[1].bounds == pytest.approx((3.5, 2.6, 4, 2))
    assert boxes[3].bounds == pytest.approx((3.5, 0.6, 4, 1))


@pytest.mark.parametrize("width", [4.0, 6.6, 9.0])
@pytest.mark.parametrize(
    "note", ["short.", "Trials left out: every epoch (12 failed), ADAPTIVE (5 running). " * 9]
)
def test_a_note_has_the_room_that_it_needs(width, note):
    with style.shared_style():
        (ax,) = style.new_figure(1, 1, width=width, note=note).flat
        ax.set_xlabel("below")
        (text,) = ax.figure.texts
        renderer = ax.figure.canvas.get_renderer()
        box, above = text.get_window_extent(renderer), ax.get_tightbbox(renderer)
    page = ax.figure.bbox
    assert 0 < box.x0 and box.x1 < page.x1
    assert 0 < box.y0 and box.y1 < above.y0
    assert text.get_text().split() == note.split()


def test_room_is_enough_for_the_longest_text():
    texts = ["iiii", "every epoch (WWW)", "never (uniform ranks)"]
    with style.shared_style():
        (ax,) = style.new_figure(1, 1).flat
        shown = [ax.text(0, 0, text, fontsize="small") for text in texts]
        widths = [t.get_window_extent().width / ax.figure.dpi for t in shown]
    assert max(widths) < style.room(texts) < max(widths) + 0.5
    assert style.room([]) == pytest.approx(0.2)


def test_short_keeps_one_line_and_cuts_what_is_too_long():
    assert style.short("every\nepoch ") == "every epoch"
    cut = style.short("x" * 100)
    assert len(cut) == style.LONGEST and cut.endswith("\u2026")


def test_spread_moves_no_more_than_it_must():
    assert style.spread([], 1.0).tolist() == []
    assert style.spread([3.0, 0.0, 1.5], 1.0).tolist() == [3.0, 0.0, 1.5]
    assert style.spread([1.0, 1.0, 1.0], 1.0).tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_allclose(style.spread([0.0, 0.4, 5.0], 1.0), [-0.3, 0.7, 5.0])


def test_labels_are_no_formulas():
    with style.shared_style():
        (ax,) = style.new_figure(1, 1, note="costs $\\frac and $5").flat
        ax.set_title("$\\sqrt{")
        ax.figure.canvas.draw()


def test_arms_with_one_choice_changed_look_like_their_end_and_unlike_one_another():
    names = [f"{end}_but_{choice}" for end in style.CHANGED for choice in style.CHOICES]
    looks = [style.look(name) for name in [*names, "ours", "reference"]]
    assert len({(look.color, look.marker) for look in looks}) == len(looks)
    assert {style.look(name).color for name in names if "ours" in name} == {"#a8e0cf"}


def test_a_long_title_is_made_smaller_until_it_fits():
    with style.shared_style():
        ax = style.new_figure(1, 1)[0, 0]
        style.title(ax, "short")
        assert ax.title.get_fontsize() == ax._left_title.get_fontsize()
        style.title(ax, "a title that is far too long for this figure, " * 3)
        text = ax._left_title.get_window_extent()
    assert text.x1 <= ax.figure.bbox.x1
