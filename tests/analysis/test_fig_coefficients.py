import json

import numpy as np
import pytest

from adacomcat.schedule import Adaptive
from analysis import exploration, load
from analysis import fig_coefficients as fig

(EXHIBIT,) = fig.EXHIBITS

SPACE = [
    {"name": "growth", "setting": "schedule.growth", "kind": "float", "low": 1.0, "high": 4.0},
    {"name": "due", "setting": "schedule.due", "kind": "choice", "choices": ["modulo", "elapsed"]},
]
HEADER = (
    "arm,label,reference,status,on_front,val_acc,val_acc_sd,searches,searches_sd,seeds,epochs,"
    "leakage,number,params_growth,params_due\n"
)
ARMS = (
    "published,published coefficients,True,finished,False,0.94,0.01,6.0,0.0,2,60,,0,2.0,modulo\n",
    'c_1,"growth 3, modulo",False,finished,True,0.96,0.0,5.0,1.0,2,60,search,1,3.0,modulo\n',
    "once,once,True,finished,True,0.95,0.0,1.0,0.0,2,60,,2,,\n",
    'c_2,"growth 1, elapsed",False,stopped,False,,,,,2,12,,3,1.0,elapsed\n',
)
SCHEDULES = {
    "published": {"kind": "adaptive"},
    "c_1": {"kind": "adaptive", "growth": 3.0},
    "once": {"kind": "once"},
    "c_2": {"kind": "adaptive", "growth": 1.0, "due": "elapsed"},
}


@pytest.fixture
def explored(tmp_path, record, write_results):
    records = []
    for arm, schedule in SCHEDULES.items():
        one = record(arm, 0, "stopped" if arm == "c_2" else "finished")
        one["config"] = {"schedule": schedule, "search_phase": {"epochs": 30}}
        records.append(one)
    root = write_results(
        tmp_path / "r",
        records,
        arms={"published": "published coefficients", "once": "once"},
        seeds=(0, 1),
        exploration={"space": SPACE, "objectives": ["val_acc", "searches"]},
    )
    (root / "arms.csv").write_text(HEADER + "".join(ARMS))
    (root / "front.csv").write_text(HEADER + ARMS[1] + ARMS[2])
    shares = {"val_acc": {"growth": 0.75, "due": 0.25}, "searches": None}
    content = {"importance": shares, "reasons": {"searches": "3 finished arms, 9 are needed"}}
    (root / "importance.json").write_text(json.dumps(content))
    decisions = [
        {"arm": "c_1", "rung": 10, "values": [0.9, 2.0], "stop": False},
        {"arm": "c_2", "rung": 10, "values": [0.8, 9.0], "stop": True},
    ]
    (root / "rungs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in decisions))
    return root


def test_the_table_has_what_the_files_say(explored):
    made = exploration.table(explored)
    arms = made.set_index("arm")
    assert list(arms.index) == ["published", "c_1", "once", "c_2"]
    assert arms.loc["c_1", ["val_acc", "val_acc_sd", "searches"]].tolist() == [0.96, 0.0, 5.0]
    assert np.isnan(arms.loc["c_2", "searches"])
    assert arms["mark"].to_dict() == {"published": "", "c_1": "A", "once": "B", "c_2": ""}
    assert arms.loc["c_1", "params_growth"] == 3.0 and arms.loc["c_2", "params_due"] == "elapsed"
    # `once` has no parameter.
    assert np.isnan(arms.loc["once", "params_growth"]) and arms.loc["once", "params_due"] == ""
    assert made.attrs["importance"] == {
        "val_acc": {"growth": 0.75, "due": 0.25},
        "searches": "3 finished arms, 9 are needed",
    }
    assert arms["stopped_after"].dropna().to_dict() == {"c_2": 10}
    assert (made["left_out"] == 1).all() and (made["left_out_why"] == "1 stopped").all()
    assert list(arms.index[arms["leakage"] != ""]) == ["c_1"]


def test_rules_are_those_of_the_schedule(explored):
    rules = exploration.table(explored).set_index("mark")[list(exploration.PLANS)]
    # Growth 3: epoch 1 is the first and confirms nothing, 2 gives F = 3, 3 gives 9, 9 gives 27.
    assert rules.loc["A", "stands still"] == "1 2 3 9 27"
    assert rules.loc["A", "always changes"] == " ".join(map(str, range(1, 30)))
    assert rules.loc["B"].tolist() == ["1", "1"]


def test_simulation_follows_the_published_example():
    trace = exploration.simulate({"kind": "adaptive"}, 30, 0.0)
    assert [epoch for epoch, (due, _) in enumerate(trace) if due] == [1, 2, 4, 8, 16]
    schedule = Adaptive()
    for epoch in (1, 2, 4):
        schedule.observe(epoch, None if epoch == 1 else 0.0)
    assert trace[4][1] == schedule.interval == 4.0
    assert all(np.isnan(interval) for _, interval in exploration.simulate({"kind": "never"}, 3, 0))


def test_it_is_drawn_with_letters_bars_and_slices(explored, drawn, lines):
    made = exploration.table(explored)
    figure = drawn(EXHIBIT, made)
    front, importance, *slices = figure.axes
    assert len(slices) == 4
    assert list(lines(front, "spot:")) == ["published", "c_1", "once"]
    assert {text.get_text(): text.xy for text in front.texts} == {"A": (5, 96), "B": (1, 95)}
    np.testing.assert_allclose(lines(front)["front"].get_xydata(), [[1, 95], [5, 96]])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "published coefficients",
        "once",
    ]
    assert [bar.get_width() for bars in importance.containers for bar in bars] == [75.0, 25.0]
    # Arms without the parameter, or without a value, are not in a slice.
    assert [len(ax.lines) for ax in slices] == [2, 2, 2, 2]
    said = fig.note(made)
    assert "LEAKAGE" in said and "after 10 epochs: 1." in said and "left out: 1 stopped" in said
    assert "No importance for searches: 3 finished arms, 9 are needed." in said


def test_the_summary_has_front_rules_and_importance(explored):
    front, shares = fig.summarize(exploration.table(explored)).values()
    assert list(front["arm"]) == ["growth 3, modulo", "once"]
    assert front.iloc[0, -2] == "1 2 3 9 27"
    assert shares.to_dict("records") == [
        {"parameter": "growth", "val_acc": "75"},
        {"parameter": "due", "val_acc": "25"},
    ]


def test_a_study_that_explores_nothing_is_refused(results, capsys):
    assert fig.main([str(results)]) == 2
    assert "exploration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("arms.csv", None, "arms.csv.*no file"),
        ("arms.csv", "arm,label\na,b\n", "arms.csv: columns.*status"),
        ("arms.csv", HEADER + ARMS[3], "a finished arm"),
        ("importance.json", "[]", "importance.json"),
        ("rungs.jsonl", "{}\n", "line 1: not a decision"),
    ],
)
def test_what_does_not_read_is_named(explored, file, content, message):
    if content is None:
        (explored / file).unlink()
    else:
        (explored / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        exploration.table(explored)


def test_other_figures_say_where_explorations_are_drawn(explored):
    with pytest.raises(ValueError, match="explored arms: got 2.*coefficients"):
        load.trials(explored)


def test_letters_do_not_run_out():
    assert [exploration.letter(i) for i in (0, 25, 26, 52)] == ["A", "Z", "A1", "A2"]
