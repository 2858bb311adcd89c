import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import report
from analysis.command import Exhibit, Made

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


def made_of(name, question, *paths, **more):
    return Made(Exhibit(name, question, None, None, None), paths, **more)


@pytest.fixture
def made(results):
    """A figure and a table that are there, and two that are not."""
    folder = results / "figures"
    folder.mkdir()
    Image.new("RGB", (30, 20), "white").save(folder / "time.png")
    pd.DataFrame({"arm": ["never", "none"], "wall_s": [1.25, np.nan]}).to_csv(
        folder / "time.csv", index=False
    )
    pd.DataFrame({"arm": ["a < b"]}).to_csv(folder / "table_arms.csv", index=False)
    brief = {"Arms <all>": pd.DataFrame({"arm": ["a < b"], "p": ["0.05"], "seeds": [3]})}
    arms, time = folder / "table_arms.csv", folder / "time.csv"
    return [
        made_of("table_arms", "Which arms?", arms, summary=brief, note="A note & more."),
        made_of("time", "Where does time go?", folder / "time.png", time),
        made_of("confounds", "Which choice?", reason="arms: got none"),
        made_of("own", "One's own?", reason="got <nothing>", fault=True),
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
    assert picture["alt"] == "Where does time go?"
    # A picture is at most as wide as the page, a table scrolls in a box of its own.
    assert "max-width: 100%" in text and text.count('class="scroll"') == text.count("<table")
    assert any(a.get("name") == "viewport" for a in found.all("meta"))


def test_figures_have_question_numbers_and_note_and_the_others_their_reasons(results, made):
    text = report.build(results, made)
    found = Page(text)
    assert [a["id"] for a in found.all("section")] == [
        "trials",
        "figure-table_arms",
        "figure-time",
        "missing",
        "provenance",
        "reproduce",
    ]
    assert "Which arms? Arms <all> arm p seeds a < b 0.05 3 A note & more." in found.text
    # Columns of numbers are set right.
    assert 'class="dataframe r2 r3"' in text
    assert "Confounds Which choice? arms: got none" in found.text
    assert "Own One's own? an error of the program: got <nothing>" in found.text
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
    table = report.provenance(report.load.records(root)).set_index("trial")
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
    made = [made_of("own", "One's own?", reason=HOSTILE.replace("\ud800", ""))]
    text = report.build(root, made)
    found = Page(text)
    assert not found.all("script")
    assert "<script>alert('x')</script>\"&\ufffd?\ufffd[31m</pre></table>" in found.text
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
    table = report.provenance(report.load.records(results)).set_index("trial")
    assert table.loc["a-broken", "leakage"] == "unknown"
    # Where the results lie is nothing that a page for others should tell.
    assert str(results) not in text


def test_trials_of_an_exploration_have_rows_of_their_own(record, write_results, tmp_path):
    records = [record("never", 0), record("c_1", 0, "stopped")]
    root = write_results(tmp_path / "r", records, exploration={"samples": 1})
    table = report.counts(report.load.study(root), report.load.records(root))
    assert table.set_index("arm").loc["c_1", ["asked", "finished", "stopped"]].tolist() == [1, 0, 1]


def test_long_tables_say_what_they_do_not_show():
    found = report.html_table(pd.DataFrame({"x": range(9)}), "numbers", limit=4)
    assert found["caption"] == "numbers; the first 4 of 9 rows"
    assert found["html"].count("<td>") == 4
    whole = report.html_table(pd.DataFrame({"x": ["long " * 99]}), "numbers")
    assert "long " * 98 in whole["html"]


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
    assert report.cell(value) == said
    html = report.html_table(pd.DataFrame({"x": [value]}, dtype=object), "t")["html"]
    assert f"<td>{said}</td>" in html


def test_main_writes_one_file_with_all_figures(results, capsys, tmp_path):
    path = tmp_path / "new" / "page.html"
    assert report.main([str(results), "--out", str(path)]) == 0
    content = path.read_bytes()
    assert len(content) < 10e6 and str(path) in capsys.readouterr().out
    found = Page(content.decode())
    assert {"figure-accuracy_vs_searches", "figure-table_arms"} <= {
        attrs.get("id") for attrs in found.all("section")
    }
    assert len(found.all("img")) >= 3


def test_main_names_what_is_wrong(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("report: ") and "study.json" in said.err and said.out == ""
