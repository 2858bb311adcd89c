import json

import numpy as np
import pandas as pd
import pytest

from adacomcat.schedule import Adaptive
from analysis import exploration, load, style
from analysis import fig_coefficients as fig

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
    verdicts = [
        {"arm": "c_1", "rung": 10, "values": [0.9, 2.0], "stop": False},
        {"arm": "c_2", "rung": 10, "values": [0.8, 9.0], "stop": True},
    ]
    (root / "rungs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    return root


def part(table, name):
    return table[table["part"] == name]


def test_the_table_has_what_the_files_say(explored):
    made = fig.data(explored)
    assert list(made.columns) == list(exploration.COLUMNS)
    assert set(made["part"]) == set(exploration.PARTS)
    values = part(made, "objective").set_index(["arm", "name"])
    assert values.loc[("c_1", "val_acc"), ["value", "sd"]].tolist() == [0.96, 0.0]
    assert np.isnan(values.loc[("c_2", "searches"), "value"])
    assert values["mark"].groupby("arm").first().to_dict() == {
        "published": "",
        "c_1": "A",
        "once": "B",
        "c_2": "",
    }
    parameters = part(made, "parameter").set_index(["arm", "name"])
    assert parameters.loc[("c_1", "growth"), "value"] == 3.0
    assert parameters.loc[("c_2", "due"), "choice"] == "elapsed"
    # `once` has no parameter.
    assert set(parameters.index.get_level_values("arm")) == {"published", "c_1", "c_2"}
    shares = part(made, "importance").set_index("objective")
    assert shares.loc["val_acc", "value"].tolist() == [0.75, 0.25]
    assert shares.loc["searches", "choice"] == "3 finished arms, 9 are needed"
    stopped = part(made, "stopped").set_index("name")
    assert stopped["value"].to_dict() == {"val_acc": 0.8, "searches": 9.0}
    assert (stopped["epoch"] == 10).all() and (stopped["arm"] == "c_2").all()
    assert (made["left_out"] == 1).all() and (made["left_out_why"] == "1 stopped").all()
    leaking = made.loc[made["leakage"] != "", "arm"].unique()
    assert list(leaking) == ["c_1"]


def searches(table, mark, plan):
    rule = part(table, "rule").query("mark == @mark and plan == @plan")
    assert len(rule) == 30
    return rule.loc[rule["searched"].eq(True), "epoch"].astype(int).tolist()


def test_rules_are_those_of_the_schedule(explored):
    made = fig.data(explored)
    # Growth 3: epoch 1 is the first and confirms nothing, 2 gives F = 3, 3 gives 9, 9 gives 27.
    assert searches(made, "A", "stands still") == [1, 2, 3, 9, 27]
    assert searches(made, "A", "always changes") == list(range(1, 30))
    assert searches(made, "B", "stands still") == searches(made, "B", "always changes") == [1]


def test_simulation_follows_the_published_example():
    trace = exploration.simulate({"kind": "adaptive"}, 30, 0.0)
    assert [epoch for epoch, (due, _) in enumerate(trace) if due] == [1, 2, 4, 8, 16]
    schedule = Adaptive()
    for epoch in (1, 2, 4):
        schedule.observe(epoch, None if epoch == 1 else 0.0)
    assert trace[4][1] == schedule.interval == 4.0
    assert all(np.isnan(interval) for _, interval in exploration.simulate({"kind": "never"}, 3, 0))


def test_it_is_drawn_with_letters_bars_slices_and_rules(explored):
    made = fig.data(explored)
    with style.shared_style():
        panels = fig.axes(made)
        fig.draw(panels, made)
    front, importance, rules, *slices = panels
    assert len(slices) == 4
    labels = {text.get_gid() for text in front.texts if text.get_gid()}
    assert labels == {"label:A", "label:B once", "label:published coefficients"}
    widths = [bar.get_width() for bars in importance.containers for bar in bars]
    assert widths == [75.0, 25.0]
    points = {line.get_gid(): list(line.get_xdata()) for line in rules.lines if line.get_gid()}
    assert points["rule:A:stands still"] == [1, 2, 3, 9, 27]
    # Arms without the parameter, or without a value, are not in a slice.
    assert sum(len(line.get_xdata()) for line in slices[0].lines) == 2
    (note,) = [t.get_text() for t in front.figure.texts if t.get_gid() == "note"]
    said = " ".join(note.split())
    assert "LEAKAGE" in said and "after 10 epochs: 1." in said and "left out: 1 stopped" in said


def test_everything_is_inside_the_figure(explored):
    made = fig.data(explored)
    with style.shared_style():
        panels = fig.axes(made)
        fig.draw(panels, made)
        renderer = panels[0].figure.canvas.get_renderer()
        whole = panels[0].figure.get_tightbbox(renderer)
    width, height = panels[0].figure.get_size_inches()
    assert whole.x0 >= 0 and whole.y0 >= 0 and whole.x1 <= width and whole.y1 <= height


def test_main_writes_it(explored, capsys):
    assert fig.main([str(explored)]) == 0
    said = capsys.readouterr().out
    assert "growth 3, modulo" in said and "importance" in said
    assert len(pd.read_csv(explored / "figures" / "coefficients.csv")) == len(fig.data(explored))


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
        ("rungs.jsonl", "{}\n", "line 1: not a verdict"),
    ],
)
def test_what_does_not_read_is_named(explored, file, content, message):
    if content is None:
        (explored / file).unlink()
    else:
        (explored / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        fig.data(explored)


def test_other_figures_say_where_explorations_are_drawn(explored):
    with pytest.raises(ValueError, match="explored arms: got 2.*coefficients"):
        load.trials(explored)


def test_letters_do_not_run_out():
    assert [exploration.letter(i) for i in (0, 25, 26, 52)] == ["A", "Z", "A1", "A2"]
