import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imsave

from analysis import page, report
from analysis.make_all import Made

VOID = {"meta", "link", "img", "br", "hr"}
HOSTILE = "<script>alert('x')</script>\"&\x00\ud800\x1b[31m</pre></table>"


class Page(HTMLParser):
    """Checks that elements nest, and collects what a test asks for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.found, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture
def made(results):
    """A figure and a table that are there, and two that are not."""
    folder = results / "figures"
    folder.mkdir()
    imsave(folder / "time.png", np.ones((20, 30, 3)))
    pd.DataFrame({"arm": ["never", "none"], "wall_s": [1.25, np.nan]}).to_csv(
        folder / "time.csv", index=False
    )
    (folder / "table_arms.txt").write_text("arm  a < b\n")
    return [
        Made("own", "A figure of one's own.", (), "got <nothing>", True, 0.0),
        Made("time", "Where time goes.", (folder / "time.png", folder / "time.csv"), "", False, 1),
        Made("confounds", "Confounds.", (), "arms: got none", False, 0.0),
        Made("table_arms", "Arms.", (folder / "table_arms.txt",), "", False, 0.1),
    ]


def test_the_page_stands_by_itself(results, made):
    text = report.build(results, made)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    found = Page(text)
    assert not found.all("script") and not found.all("iframe")
    for _, attrs in found.found:
        for name in ("src", "href", "srcset", "action"):
            assert attrs.get(name, "data:").startswith(("data:", "#")), attrs
    assert "url(" not in text and "@import" not in text
    ids = [attrs["id"] for _, attrs in found.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in found.all("a")} == set(ids)
    (picture,) = found.all("img")
    assert picture["alt"] == "Where time goes."
    assert (picture["width"], picture["height"]) == ("30", "20")
    assert any(a.get("name") == "viewport" for a in found.all("meta"))


def test_figures_come_in_the_order_of_the_questions_and_the_others_with_their_reasons(
    results, made
):
    found = Page(report.build(results, made))
    assert [a["id"] for a in found.all("section")] == [
        "trials",
        "figure-table_arms",
        "figure-time",
        "missing",
        "provenance",
        "reproduce",
    ]
    assert report.QUESTIONS["time"] in found.text
    assert "arm a < b" in found.text
    assert "Confounds What does each choice of the reference cost or give? arms: got none" in (
        found.text
    )
    assert "Own A figure of one's own. an error of the program: got <nothing>" in found.text
    # A label that looks like a hole is none; a hole is empty.
    assert "never 1.25 none" in found.text


def test_statuses_are_counted_and_causes_given(results, made):
    found = Page(report.build(results, made))
    assert "9 trials; figures show the finished ones. Left out: 3." in found.text
    assert "arm asked finished failed pending running" in found.text
    assert "every epoch 3 2 1 0 0 adaptive 3 1 0 1 1" in found.text
    assert "digits-fixed_1-s1-0123abcd: failed: RuntimeError: loss is nan" in found.text


def origin(commit="c" * 40, dirty=False, torch="2.9"):
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": {"torch": torch, "ray": "2.51"},
        "hardware": {"cpu": "EPYC", "gpu": []},
        "execution": {"executor": "tune", "workers": 1},
        "split_hashes": {"train": "ab", "test": "cd"},
    }


def test_provenance_is_said_of_every_trial_and_leaks_come_first(record, write_results, tmp_path):
    records = [record("never", 0), record("never", 1), record("fixed_1", 0)]
    records[0]["provenance"] = origin()
    records[1]["provenance"] = origin(torch="2.10", dirty=True)
    records[2]["leakage"] = ["search"]
    root = write_results(tmp_path / "r", records, command="study/run.py adaptive_vs_fixed")
    (root / "study.yaml").write_text("seeds: [0, 1]\n")
    text = report.build(root, [])
    found = Page(text)
    table = report.provenance(report.records(root)).set_index("trial")
    assert list(table["software"]) == ["", "1", "2"] and list(table["splits"]) == ["", "1", "1"]
    assert table["commit"].iloc[2] == "cccccccccccc + local changes"
    assert list(table["leakage"]) == ["search", "none", "none"]
    leak = "LEAKAGE: the rank search saw the images that are reported on: every epoch."
    assert found.text.index(leak) < found.text.index("Trials by arm and status")
    assert "1 of 3 trials ran code with changes in no commit." in found.text
    assert "Software 2 torch 2.10 ray 2.51" in found.text and "gpu none" in found.text
    commands = f"git checkout {'c' * 40} python study/run.py adaptive_vs_fixed"
    assert commands in found.text and "seeds: [0, 1]" in found.text


def test_hostile_texts_stay_texts(record, write_results, tmp_path):
    one = record("never", 0) | {"label": HOSTILE, "error": HOSTILE, "status": "failed"}
    one["provenance"] = origin() | {"versions": {HOSTILE: HOSTILE}}
    root = write_results(
        tmp_path / "r",
        [one],
        arms={"never": HOSTILE},
        question=HOSTILE,
        command=HOSTILE,
        experiment=HOSTILE,
    )
    (root / "study.yaml").write_text("a: </pre><script>\n")
    made = [Made(HOSTILE, HOSTILE, (), HOSTILE, False, 0.0)]
    text = report.build(root, made)
    found = Page(text)
    assert not found.all("script")
    assert "<script>alert('x')</script>\"&\ufffd\ufffd\ufffd[31m</pre></table>" in found.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    text.encode()


def test_what_does_not_read_is_counted(results, made):
    for name, content in (("a-broken", "{"), ("b-newer", json.dumps({"schema_version": 99}))):
        (results / "trials" / name).mkdir()
        (results / "trials" / name / "trial.json").write_text(content)
    text = report.build(results, made)
    found = Page(text)
    assert "11 trials" in found.text and "Left out: 5." in found.text
    warning = "Left out, since no figure can use them: 1 not JSON, 1 of schema 99."
    assert found.text.index(warning) < found.text.index("Trials by arm and status")
    assert "a-broken: no figure can use it: trials/a-broken/trial.json: not JSON" in found.text
    assert "trials/b-newer/trial.json: schema_version: got 99" in found.text
    assert "of no arm 2 0 0 0 0 2" in found.text
    table = report.provenance(report.records(results)).set_index("trial")
    assert table.loc["a-broken", "leakage"] == "unknown"
    # Where the results lie is nothing that a page for others should tell.
    assert str(results) not in text


def test_trials_of_an_exploration_have_rows_of_their_own(record, write_results, tmp_path):
    records = [record("never", 0), record("c_1", 0, "stopped")]
    root = write_results(tmp_path / "r", records, exploration={"samples": 1})
    table = report.counts(report.load.study(root), report.records(root))
    assert table.set_index("arm").loc["c_1", ["asked", "finished", "stopped"]].tolist() == [1, 0, 1]


def test_long_tables_say_what_they_do_not_show():
    found = Page(page.table(pd.DataFrame({"x": range(9)}), "numbers", limit=4))
    assert found.text.startswith("numbers; the first 4 of 9 rows") and len(found.all("td")) == 4


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.957777777, "0.95778"),
        (57358.0, "57358"),
        (1234567.0, "1,234,567"),
        (None, ""),
        (float("nan"), ""),
        ("none", "none"),
        (True, "True"),
        (3, "3"),
    ],
)
def test_cells(value, said):
    found = Page(page.table(pd.DataFrame({"x": [value]}, dtype=object), "t"))
    assert found.words[-2 if found.words[-1] == "\n" else -1].strip() in (said, "")
    assert page._cell(value) == said


def test_main_writes_one_file_with_all_figures(results, capsys, tmp_path):
    assert report.main([str(results)]) == 0
    first = (results / "report.html").read_bytes()
    assert len(first) < 10e6 and str(results / "report.html") in capsys.readouterr().out
    assert "figure-accuracy_vs_searches" in first.decode()
    Page(first.decode())
    # The same results give the same page.
    assert report.main([str(results), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == first


def test_main_names_what_is_wrong(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("report: ") and "study.json" in said.err and said.out == ""
