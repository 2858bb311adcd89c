import re
from pathlib import Path
from typing import Any

import pytest

from adacomcat.config.yaml import read_yaml, write_yaml
from experiments import published
from study.spec.catalog import experiment_names, load_experiment, workloads
from study.spec.configfile import read_config, to_yaml, write_config
from study.spec.expand import apply_settings, expand, suggested_arm
from study.spec.exploration import Dimension, Exploration, Stopping
from study.spec.schema import Arm, Experiment

POINT = {"growth": 1.0, "due": "modulo"}


def exploring(experiment: Experiment) -> Experiment:
    """The experiment's first arm as the reference of a small exploration."""
    growth = Dimension(name="growth", setting="schedule.growth", kind="float", low=1, high=4)
    due = Dimension(
        name="due", setting="schedule.due", kind="choice", choices=("modulo", "elapsed")
    )
    tolerance = Dimension(
        name="tolerance",
        setting="schedule.tolerance",
        kind="float",
        low=1e-7,
        high=0.1,
        log=True,
        when={"due": "elapsed"},
    )
    exploration = Exploration(
        space=(growth, due, tolerance),
        objectives=("val_acc", "searches"),
        samples=3,
        overrides={"schedule": {"kind": "adaptive"}},
        stopping=Stopping(rungs=(1, 2)),
        points={experiment.arms[0].name: POINT},
    )
    first = experiment.arms[0]
    return experiment.model_copy(update={"arms": (first,), "exploration": exploration})


def trial_ids(experiment: Experiment) -> list[str]:
    return [spec.trial_id for spec in expand(experiment)]


def pairs() -> list[Any]:
    """Every experiment with every workload that it is asked of.

    By default each experiment once and each workload once; the others are `slow`.
    """
    refused = {
        "published": set(workloads()) - {published.WORKLOAD},
        "source_and_annealing": {name for name in workloads() if name.endswith("_upstream")},
    }
    found, seen = [], set()
    for name in experiment_names():
        for workload in workloads():
            if workload not in refused.get(name, ()):
                often = {name, workload} <= seen
                found.append(pytest.param(name, workload, marks=[pytest.mark.slow] * often))
                seen |= {name, workload}
    return found


@pytest.mark.parametrize(("name", "workload"), pairs())
def test_a_file_makes_the_same_trials(name: str, workload: str, tmp_path: Path) -> None:
    experiment = load_experiment(name, workload, None)
    path = tmp_path / "study.yaml"
    write_config(experiment, path)
    again = read_config(path)
    assert trial_ids(again) == trial_ids(experiment)
    assert again.exploration == experiment.exploration
    # What is written of what was read is the same file: nothing creeps in.
    assert to_yaml(again) == path.read_text()
    for field in ("name", "question", "arms", "seeds", "figures"):
        assert getattr(again, field) == getattr(experiment, field)


def test_settings_and_an_exploration_survive(tmp_path: Path, tiny_experiment: Experiment) -> None:
    settings = {"search.lr": 1e-5, "data.options.note": "1e-3", "budget.reduction": 0.25}
    experiment = apply_settings(exploring(tiny_experiment), settings)
    write_config(experiment, tmp_path / "s.yaml")
    again = read_config(tmp_path / "s.yaml")
    assert again == experiment
    assert trial_ids(again) == trial_ids(experiment)
    point = {"growth": 2, "due": "elapsed", "tolerance": 1e-7}
    assert suggested_arm(again, point) == suggested_arm(experiment, point)


def test_a_file_names_every_setting_and_says_how_to_run_it(tiny_experiment: Experiment) -> None:
    text = to_yaml(tiny_experiment)
    assert text.startswith("# The experiment tiny_experiment on the workload tiny, ")
    assert "python study/run.py --config COPY" in text
    content = read_yaml(text)
    assert list(content)[:3] == ["schema_version", "experiment", "question"]
    defaults = content["workload"]["defaults"]
    assert set(defaults) == {
        "data",
        "model",
        "dense",
        "method",
        "budget",
        "search",
        "schedule",
        "search_phase",
        "finetune",
        "runtime",
    }
    # A default of the software, one of the workload, and what an arm sets.
    assert defaults["finetune"]["weight_decay"] == 0.05
    assert defaults["search_phase"]["epochs"] == 3
    assert content["arms"][1]["overrides"] == {"schedule": {"kind": "once"}}


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        "schema_version: 2\nexperiment: small\nquestion: Why?\n"
        "workload: {name: w, description: '', defaults: {search.lr: 1e-3}}\n"
        "arms: [{name: once, label: once, overrides: {schedule.kind: once}}]\nseeds: [0, 3]\n"
    )
    specs = expand(read_config(path))
    assert [(spec.arm, spec.seed) for spec in specs] == [("once", 0), ("once", 3)]
    assert specs[0].config["search"]["lr"] == 0.001
    assert specs[0].config["schedule"] == {"kind": "once"}


def edit(content: Any, path: str, value: Any) -> None:
    """Set an entry by its dotted path; a number is a place in a list, `-` deletes."""
    *steps, last = (int(s) if s.isdigit() else s for s in path.split("/"))
    for step in steps:
        content = content[step]
    if value == "-":
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", 3, "schema_version: got 3, allowed: up to 2; a newer one needs"),
        ("schema_version", "-", "schema_version: got None"),
        ("schema_version", True, "schema_version: got True"),
        ("experimant", "x", "experimant: got 'experimant' (did you mean 'experiment'?), allowed:"),
        ("name", "x", "name: got 'name'"),
        ("experiment", "-", "experiment: got nothing, allowed: a value"),
        ("experiment", "A b", "experiment: got 'A b', allowed: lower-case letters"),
        ("question", 5, "question: got 5, allowed: text"),
        ("seeds", ["0"], "seeds.0: got '0', allowed: a whole number"),
        ("seeds", [0, 0], "seeds: got (0, 0), allowed: each seed once"),
        ("seeds", [], "seeds: got [], allowed: one or more"),
        ("workload/default", {}, "workload.default: got 'default' (did you mean 'defaults'?)"),
        ("workload/defaults/serach", {}, "workload.defaults.serach: got 'serach' (did you mean"),
        ("workload/defaults/search/lrr", 1, "workload.defaults.search.lrr: got 'lrr' (did you"),
        ("workload/defaults/search/lr", "x", "workload.defaults.search.lr: got 'x', allowed: a n"),
        ("workload/defaults/search/lr", -1, "workload.defaults.search.lr: got -1, allowed: abov"),
        ("arms/0/lable", "x", "arms.each.lable: got 'lable' (did you mean 'label'?)"),
        ("arms/0/label", "-", "arms.each.label: got nothing, allowed: a value"),
        ("arms/0/name", 5, "arms.0.name: got 5, allowed: text"),
        ("arms/0", "each", "arms.0: got 'each', allowed: a mapping"),
        ("arms/0/overrides/schedule/evry", 2, "arms.each.overrides.schedule.evry: got 'evry' (did"),
        ("arms/0/overrides/search", {"lr": "x"}, "arms.each.overrides.search.lr: got 'x'"),
        ("arms/0/overrides/schedule/every", 0, "arms.each.overrides.schedule.every: got 0"),
        ("arms/0/needs", [{"arm": "x", "rol": "y"}], "arms.each.needs.0.rol: got 'rol' (did you"),
        ("arms/0/resolver", "oracle_schedule", "arms.each.resolver: got 'oracle_schedule', allow"),
        ("exploration/space", [], "exploration.space: got [], allowed: one or more"),
        ("exploration/space/0/low", 9, "exploration.space.growth.low: got 9.0, allowed: below h"),
        ("exploration/space/0/lo", 9, "exploration.space.growth.lo: got 'lo' (did you mean 'low"),
        ("exploration/space/0/low", "x", "exploration.space.growth.low: got 'x', allowed: a num"),
        ("exploration/stopping/keep", 2, "exploration.stopping.keep: got 2, allowed: below 1"),
        ("exploration/sampler", "tpee", "exploration.sampler: got 'tpee', allowed: 'tpe' or 'nsg"),
        ("exploration/objectives/1", "val_acc", "exploration.objectives: got ('val_acc', 'val_acc"),
        ("exploration/overrides/search", {"lr": 0}, "exploration.overrides.search.lr: got 0"),
        ("exploration/points/other", POINT, "exploration.points: got 'other', allowed: each"),
        ("exploration/points/A b", {}, "exploration.points.A b: got 'A b', allowed: lower-case"),
    ],
)
def test_a_wrong_file_names_the_field(
    path: str, value: Any, message: str, tmp_path: Path, tiny_experiment: Experiment
) -> None:
    content = read_yaml(to_yaml(exploring(tiny_experiment)))
    edit(content, path, value)
    file = tmp_path / "s.yaml"
    file.write_text(write_yaml(content))
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        read_config(file)
    assert str(refusal.value).startswith(f"{file}: {message}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got nothing, allowed: a mapping with schema_version, experiment, question"),
        ("# a comment alone\n", "got nothing, allowed: a mapping"),
        ("- a\n- b\n", "got list, allowed: a mapping with schema_version"),
        ("schema_version: 2\nexperiment: [\n", "line 3: "),
        ("schema_version: 2\nseeds: [0]\nseeds: [1]\n", 'line 3: found duplicate key "seeds"'),
        ("schema_version: 2\nquestion: !!timestamp 2024-01-01\n", "question: got datetime.date"),
        (b"\xff\xfe\x00", ""),
    ],
)
def test_what_is_no_study_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")) as refusal:
        read_config(path)
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--config: cannot read .*\(No such file"):
        read_config(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match=r"--config: cannot read .*\(Is a directory"):
        read_config(tmp_path)


def test_an_arm_added_by_hand_runs(tmp_path: Path, tiny_experiment: Experiment) -> None:
    content = read_yaml(to_yaml(tiny_experiment))
    content["arms"].append({"name": "two", "label": "two", "overrides": {"schedule.every": 2}})
    content["workload"]["defaults"]["schedule"] = {"kind": "fixed"}
    (tmp_path / "s.yaml").write_text(write_yaml(content))
    again = read_config(tmp_path / "s.yaml")
    assert again.arms[-1] == Arm(name="two", label="two", overrides={"schedule.every": 2})
    assert expand(again)[-1].config["schedule"] == {"kind": "fixed", "every": 2}
