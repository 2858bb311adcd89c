"""A figure made up for the test, run through the command line that all figures share."""

import pandas as pd
import pytest

from analysis import command, style
from analysis.load import study


def data(results, share=0.5):
    return pd.DataFrame({"workload": [study(results)["workload"]], "share": [share]})


def draw(ax, table):
    ax.plot([0, 1], [0, table["share"].iloc[0]])


def test_it_writes_the_files_and_prints_the_table(results, capsys):
    assert command.run("made_up", data, draw, [str(results)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["workload", "share"] and said[1].split() == ["digits", "0.5"]
    paths = [results / "figures" / f"made_up.{kind}" for kind in ("png", "pdf", "csv")]
    assert said[2:] == [str(path) for path in paths]
    assert all(path.stat().st_size for path in paths)


def test_options_reach_data_and_several_axes_reach_draw(results, capsys):
    seen = []

    def both(panels, table):
        seen.append(panels.shape)
        draw(panels[0, 1], table)

    code = command.run(
        "made_up",
        data,
        both,
        [str(results), "--share", "0.25"],
        axes=lambda table: style.new_figure(1, 2, note="a note"),
        say=lambda table: f"share {table['share'].iloc[0]}",
        options=lambda parser: parser.add_argument("--share", type=float),
    )
    assert code == 0 and seen == [(1, 2)]
    assert capsys.readouterr().out.startswith("share 0.25\n")


def test_what_is_wrong_with_the_results_is_one_line_and_code_2(tmp_path, capsys):
    assert command.run("made_up", data, draw, [str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("made_up: ") and said.err.count("\n") == 1
    assert not (tmp_path / "figures").exists()


def test_the_help_is_the_modules_headline(results, capsys):
    with pytest.raises(SystemExit):
        command.run("made_up", data, draw, ["--help"])
    assert "A figure made up for the test" in capsys.readouterr().out


def test_long_tables_are_cut_in_a_terminal():
    text = command.as_text(pd.DataFrame({"epoch": range(1000)}))
    assert len(text.splitlines()) < 70
