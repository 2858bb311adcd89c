import pkgutil
import types

import pytest

import analysis
from analysis import make_all as tool
from analysis import report


def figure(name, main):
    """A module of a figure, made up."""
    made = types.ModuleType(name, f"What {name} shows.\n\nMore.")
    made.NAME, made.main = name, main
    return made


def write(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("x")
    return 0


@pytest.fixture
def made_up(results, monkeypatch):
    """One figure that is written, one that the results do not allow, one with a fault."""

    def refuse(argv):
        import sys

        print("absent: searches: got 0, allowed: 1 or more", file=sys.stderr)
        return 2

    def crash(argv):
        raise ZeroDivisionError("by\nnothing")

    figures = [
        figure("table_there", lambda argv: write(results / "figures", "table_there.csv")),
        figure("there", lambda argv: write(results / "figures", "there.png", "there.csv")),
        figure("absent", refuse),
        figure("faulty", crash),
    ]
    monkeypatch.setattr(tool, "modules", lambda: figures)
    return results


def test_every_figure_and_table_of_the_package_is_found_and_has_a_question():
    names = {info.name for info in pkgutil.iter_modules(analysis.__path__)}
    expected = {name for name in names if name.startswith(("fig_", "table_"))}
    found = tool.modules()
    assert {module.__name__.partition(".")[2] for module in found} == expected
    assert {module.NAME for module in found} == set(report.QUESTIONS)


def test_each_figure_is_written_or_its_reason_is_given(made_up, capsys):
    found = {one.name: one for one in tool.make_all(made_up)}
    assert [path.name for path in found["there"].paths] == ["there.png", "there.csv"]
    assert found["there"].title == "What there shows." and found["there"].reason == ""
    assert found["absent"].reason == "searches: got 0, allowed: 1 or more"
    assert found["absent"].paths == () and not found["absent"].fault
    assert found["faulty"].fault and found["faulty"].reason == "ZeroDivisionError: by"
    assert "Traceback" in capsys.readouterr().err


def test_what_an_earlier_call_drew_is_deleted_when_it_is_not_allowed_any_more(made_up):
    write(made_up / "figures", "absent.png", "unknown.png")
    tool.make_all(made_up)
    names = {path.name for path in (made_up / "figures").iterdir()}
    assert names == {"table_there.csv", "there.png", "there.csv", "unknown.png"}


def test_main_prints_one_table(made_up, capsys):
    assert tool.main([str(made_up)]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines[:4]}
    assert states == {
        "table_there": "written",
        "there": "written",
        "absent": "missing",
        "faulty": "fault",
    }
    assert lines[4].startswith("2 of 4 written in ")
    assert lines[5] == f"in {made_up / 'figures'}"


def test_nothing_written_is_code_1_and_no_study_is_code_2(made_up, monkeypatch, tmp_path, capsys):
    only = [module for module in tool.modules() if module.NAME == "absent"]
    monkeypatch.setattr(tool, "modules", lambda: only)
    assert tool.main([str(made_up)]) == 1
    assert tool.main([str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("make_all: ") and "study.json" in said.err


def test_the_figures_of_a_real_study(results):
    found = {one.name: one for one in tool.make_all(results)}
    assert found["accuracy_vs_searches"].reason == ""
    assert "a study that explores" in found["coefficients"].reason
    assert "clocks" in found["time"].reason
