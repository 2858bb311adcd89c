import os
import subprocess
import sys

import matplotlib
import pytest

from analysis import arms, style
from study.spec.catalog import experiment_names, load_experiment

EXPERIMENTS = [name for name in experiment_names() if name != "published"]


def shade(color):
    red, green, blue = matplotlib.colors.to_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_arms_of_a_study_differ_in_marker_and_color(name):
    """Budgets and draws of a series look the same, as does a choice taken by either end."""
    names = [arm.name for arm in load_experiment(name, "digits", 1).arms]
    series = {arms.series(arm, names)[0] for arm in names if arm not in arms.draws(names)}
    series |= {"dense", *(arms.POOLED for _ in arms.draws(names))}
    looks = {arm: style.look(arm) for arm in series}
    assert len(set(looks.values())) == len(series)
    for end in ("ours", "reference"):
        markers = [look.marker for arm, look in looks.items() if arm.startswith(end)]
        assert len(set(markers)) == len(markers)
    if "ours" not in series:
        assert len({look.marker for look in looks.values()}) >= len(series) - 1
        assert len({look.color for look in looks.values()}) == len(series)


def test_fixed_schedules_darken_the_more_often_they_search():
    shades = [shade(style.look(f"fixed_{every}").color) for every in (8, 4, 2, 1)]
    assert shades == sorted(shades, reverse=True)
    assert min(a - b for a, b in zip(shades, shades[1:], strict=False)) > 0.1


def test_no_name_of_a_method_has_a_look_of_its_own():
    study = load_experiment("methods_compared", "digits", 1)
    methods = {str(arm.overrides["method"]["name"]) for arm in study.arms}
    assert len(methods) == 3 and not {*methods, "both", "uniform"} & {*style.LOOKS}


def test_an_unknown_arm_looks_the_same_in_every_process():
    code = "from analysis.style import look; print([look(f'arm{i}x') for i in range(9)])"
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
    assert seen == {f"{[style.look(f'arm{i}x') for i in range(9)]}\n"}
    assert len({style.look(f"arm{i}x") for i in range(9)}) > 4


def test_a_last_number_is_no_part_of_a_name_and_a_choice_has_a_light_color_of_its_end():
    assert style.look("adaptive_30") == style.look("adaptive")
    assert style.look("fixed_1_80") == style.look("fixed_1") != style.look("fixed_4")
    assert style.look("random_1") == style.look("random_3") == style.LOOKS["random"]
    assert style.look("brand_new_30") == style.look("brand_new_50")
    assert style.look("a_but_x").marker == style.look("b_but_x").marker
    assert shade(style.look("ours_but_x").color) > shade(style.look("ours").color)


def test_shared_style_leaves_no_trace():
    before = dict(matplotlib.rcParams)
    with style.shared_style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_same_drawing_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        with style.shared_style():
            figure = style.new_figure()
            figure.subplots().plot([0, 1], [0, 1], label="text")
            style.title(figure, "costs $\\frac and $5")
            style.note(figure, "A label is no formula: $\\sqrt{. " * 9)
            style.legend(figure, {"adaptive": "a label that is far too long " * 3})
            written.append(style.save(figure, tmp_path / name))
    assert [path.name for path in written[0]] == ["one.png", "one.pdf"]
    for one, two in zip(*written, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_title_note_and_legend_are_inside_the_figure_and_apart():
    with style.shared_style():
        figure = style.new_figure(dpi=40)
        figure.subplots().plot([0, 1], [0, 1])
        style.title(figure, "a title that is far too long for this figure " * 3)
        style.note(figure, "Trials left out: every epoch (12 failed), ADAPTIVE (5 running). " * 9)
        style.legend(figure, {name: f"an arm called {name}" for name in style.LOOKS})
        figure.canvas.draw()
    whole = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    # What a little too many arms take more than there is, the saved figure is larger by.
    assert whole.x0 >= 0 and whole.x1 <= 1.02 * figure.bbox.x1 and whole.y1 <= figure.bbox.y1
    title, note = figure._suptitle.get_window_extent(), figure._supxlabel.get_window_extent()
    axes = figure.axes[0].get_tightbbox()
    assert note.y1 <= axes.y0 and axes.y1 <= title.y0
    assert axes.x1 <= figure.legends[0].get_window_extent().x0


def test_short_keeps_one_line_and_cuts_what_is_too_long():
    assert style.short("every\nepoch ") == "every epoch"
    cut = style.short("x" * 100)
    assert len(cut) == 36 and cut.endswith("…")
