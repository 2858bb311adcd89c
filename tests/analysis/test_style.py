import os
import subprocess
import sys

import matplotlib
import pandas as pd

from analysis import style
from experiments.adaptive_vs_fixed import experiment
from experiments.workloads import workloads


def test_every_arm_of_the_main_experiment_has_a_look_of_its_own():
    arms = [arm.name for arm in experiment(workloads()[0]).arms]
    assert set(arms) <= set(style.LOOKS)
    assert len({style.look(arm).marker for arm in arms}) == len(arms)
    assert len({style.look(arm).colour for arm in arms}) == len(arms)


def test_fixed_schedules_darken_the_more_often_they_search():
    def lightness(colour):
        red, green, blue = matplotlib.colors.to_rgb(colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = [lightness(style.look(f"fixed_{every}").colour) for every in (8, 4, 2, 1)]
    assert shades == sorted(shades, reverse=True)
    assert min(a - b for a, b in zip(shades, shades[1:], strict=False)) > 0.1


def test_an_unknown_arm_looks_the_same_in_every_process():
    code = "from analysis.style import look; print([look(f'arm_{i}') for i in range(9)])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
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
