import errno
import pkgutil
import re

import pandas as pd
import pytest

import analysis
from analysis import make_all as tool
from analysis import report
from analysis.command import Exhibit, run

TABLE = pd.DataFrame({"arm": ["a"]})


def exhibit(name, data, draw=None):
    return Exhibit(name, f"What does {name} show?", data, lambda t: {"": t}, lambda t: "", draw)


@pytest.fixture
def made_up(results, monkeypatch):
    """A table and a figure that are there, one that the results do not allow, two with a fault."""

    def refuse(results):
        raise ValueError(f"{results}: searches: got 0, allowed: 1 or more")

    def crash(figure, table):
        raise ValueError("by\nnothing")

    def fail(results):
        raise ZeroDivisionError

    found = [
        exhibit("table_there", lambda results: TABLE),
        exhibit("there", lambda results: TABLE, lambda figure, table: None),
        exhibit("absent", refuse),
        exhibit("faulty", lambda results: TABLE, crash),
        exhibit("broken", fail),
    ]
    monkeypatch.setattr(tool, "exhibits", lambda first: found)
    return results


def test_every_figure_and_table_of_the_package_is_found_and_asks_a_question():
    names = {info.name for info in pkgutil.iter_modules(analysis.__path__)}
    modules = {name for name in names if name.startswith(("fig_", "table_"))}
    found = tool.exhibits()
    assert len({one.name for one in found}) == len(found) == len(modules) + 1
    assert all(one.question.endswith("?") for one in found)
    # Tables have the name of their module, figures that without `fig_`.
    assert {m.removeprefix("fig_") for m in modules} <= {one.name for one in found}


def test_what_the_experiment_names_comes_first(record, write_results, tmp_path):
    named = ["fig_time", "table_staleness", "fig_gone"]
    root = write_results(tmp_path / "results", [record("never", 0)], figures=named)
    made = [one.exhibit.name for one in tool.make_all(root)]
    assert made[:2] == ["time", "table_staleness"]
    assert made[2:] == [
        one.name for one in tool.exhibits() if one.name not in ("time", "table_staleness")
    ]
    # The report shows them in the same order.
    page = report.build(root, tool.make_all(root))
    drawn = re.findall('section id="figure-([a-z_]+)"', page)
    assert drawn == [name for name in made if name in drawn] and "table_arms" in drawn


@pytest.mark.parametrize("draw", [None, lambda figure, table: None])
def test_a_full_disk_leaves_the_old_files_whole_and_is_one_line(results, monkeypatch, capsys, draw):
    one = exhibit("there", lambda results: TABLE, draw)
    made = one.write(TABLE, results)
    before = {path: path.read_bytes() for path in (results / "figures").iterdir()}
    assert set(made.paths) == set(before)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adacomcat.files._sync_file", full)
    first = made.paths[0]
    assert run([one], [str(results)]) == 1
    said = capsys.readouterr()
    assert said.err == f"there: cannot write {first} (No space left on device)\n"
    assert said.out == ""
    assert {path: path.read_bytes() for path in (results / "figures").iterdir()} == before
    monkeypatch.setattr(tool, "exhibits", lambda first: [one, one])
    for main, name in ((tool.main, "make_all"), (report.main, "report")):
        assert main([str(results)]) == 1
        said = capsys.readouterr()
        assert said.err == f"{name}: cannot write {first} (No space left on device)\n"
        assert said.out == ""


def test_each_is_written_or_its_reason_is_given(made_up, capsys):
    (made_up / "figures").mkdir()
    for name in ("absent.png", "unknown.png"):
        (made_up / "figures" / name).write_text("x")
    found = {one.exhibit.name: one for one in tool.make_all(made_up)}
    assert [path.name for path in found["there"].paths] == ["there.png", "there.pdf", "there.csv"]
    assert [path.suffix for path in found["table_there"].paths] == [".csv", ".txt"]
    assert found["there"].reason == "" and found["there"].seconds > 0
    assert found["absent"].reason == "searches: got 0, allowed: 1 or more"
    assert found["absent"].paths == () and not found["absent"].fault
    assert found["faulty"].fault and found["faulty"].reason == "ValueError: by"
    assert found["broken"].fault and found["broken"].reason == "ZeroDivisionError: "
    assert capsys.readouterr().err.count("Traceback") == 2
    # The files of an earlier call are gone where there are no new ones.
    left = {path.name for path in (made_up / "figures").iterdir()}
    assert "absent.png" not in left and "unknown.png" in left


def test_main_prints_one_table(made_up, capsys):
    assert tool.main([str(made_up)]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines[:5]}
    assert states == {
        "table_there": "written",
        "there": "written",
        "absent": "missing",
        "faulty": "fault",
        "broken": "fault",
    }
    assert lines[5:] == ["2 of 5 written", f"in {made_up / 'figures'}"]


def test_nothing_written_is_code_1_and_no_study_is_code_2(made_up, monkeypatch, tmp_path, capsys):
    only = [one for one in tool.exhibits(()) if one.name == "absent"]
    monkeypatch.setattr(tool, "exhibits", lambda first: only)
    assert tool.main([str(made_up)]) == 1
    assert tool.main([str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("make_all: ") and "study.json" in said.err
