"""An exhibit made up for the test, run through the command line that all share."""

import os
import sys

import pandas as pd
import pytest

from adacomcat.cli.process import tolerant_output
from analysis import command
from analysis.load import study


def data(results, share=0.5):
    """The share of a results directory."""
    return pd.DataFrame({"workload": [study(results)["workload"]], "share": [share]})


def draw(figure, table):
    figure.subplots().plot([0, 1], [0, table["share"].iloc[0]])


def exhibit(name="made_up", **more):
    given = {"data": data, "summary": lambda t: {"A caption": t}, "note": lambda t: "A ± note."}
    return command.Exhibit(name, "What is it?", **(given | more))


def test_it_writes_the_files_and_prints_summary_note_and_paths(results, capsys):
    assert command.run([exhibit(draw=draw)], [str(results)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "A caption" and said[1].split() == ["workload", "share"]
    assert said[2].split() == ["digits", "0.5"] and said[4] == "A ± note."
    paths = [results / "figures" / f"made_up.{kind}" for kind in ("png", "pdf", "csv")]
    assert said[6:] == [str(path) for path in paths]
    assert all(path.stat().st_size for path in paths)


def test_a_table_has_a_text_instead_of_a_picture(results):
    assert command.run([exhibit()], [str(results)]) == 0
    kinds = {path.suffix for path in (results / "figures").iterdir()}
    assert kinds == {".csv", ".txt"}
    text = (results / "figures" / "made_up.txt").read_text(encoding="utf-8")
    assert text.endswith("A ± note.\n")


def test_options_reach_data_and_a_module_may_have_several_exhibits(results, capsys):
    def options(parser):
        parser.add_argument("--share", type=float)

    both = [exhibit(options=options), exhibit("other")]
    assert command.run(both, [str(results), "--share", "0.25", "--draw", "other"]) == 0
    assert "0.25" in capsys.readouterr().out
    assert (results / "figures" / "other.csv").is_file()


def test_what_is_wrong_with_the_results_is_one_line_and_code_2(tmp_path, capsys):
    assert command.run([exhibit()], [str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("made_up: ") and said.err.count("\n") == 1
    assert not (tmp_path / "figures").exists()


def test_a_fault_in_drawing_is_no_want_of_the_results(results):
    def broken(figure, table):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        command.run([exhibit(draw=broken)], [str(results)])


def test_the_help_is_the_question(results, capsys):
    with pytest.raises(SystemExit):
        command.run([exhibit()], ["--help"])
    assert "What is it?" in capsys.readouterr().out


def test_texts_are_set_left_and_numbers_right():
    frame = pd.DataFrame({"arm": ["a", "every epoch"], "points": ["-1.0", ""], "seeds": [3, 12]})
    assert command.as_text({"": frame}, "Note.").splitlines() == [
        "arm         points seeds",
        "a             -1.0     3",
        "every epoch           12",
        "",
        "Note.",
    ]


@pytest.mark.parametrize(("encoding", "said"), [("ascii", b"+/- ->"), ("utf-8", "± →".encode())])
def test_a_terminal_gets_what_it_can_show(encoding, said, tmp_path, monkeypatch):
    with open(tmp_path / "out", "w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with tolerant_output():
            command.say("± →")
    assert (tmp_path / "out").read_bytes() == said + b"\n"


def test_a_closed_pipe_is_no_fault(results, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert command.run([exhibit()], [str(results)]) == 0
    assert (results / "figures" / "made_up.csv").is_file()
