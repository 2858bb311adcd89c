import errno
import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from study.spec.configfile import read_config
from study.spec.expand import apply_settings, expand
from study.spec.exploration import Dimension, Exploration
from study.spec.schema import Arm, Experiment
from study.store import Results, load


def begin(results: Results, experiment: Experiment, *, extend: bool = False) -> None:
    provenance = {"git_commit": "abc"}
    results.begin(experiment, extend=extend, command="run", provenance=provenance)


def with_seeds(experiment: Experiment, *seeds: int) -> Experiment:
    return experiment.model_copy(update={"seeds": seeds})


def exploring(experiment: Experiment, samples: int = 3, **changes: Any) -> Experiment:
    """The first two arms as references of an exploration."""
    growth = Dimension(name="growth", setting="schedule.growth", kind="float", low=1, high=4)
    asked = {"space": (growth,), "objectives": ("val_acc",), "samples": samples} | changes
    update = {"arms": experiment.arms[:2], "exploration": Exploration(**asked)}
    return experiment.model_copy(update=update)


def test_the_files_of_a_study(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path / "r")
    begin(results, tiny_experiment)
    study = json.loads((tmp_path / "r" / "study.json").read_text())
    assert study["schema_version"] == 2
    assert study["exploration"] is None
    assert study["experiment"] == "tiny_experiment"
    assert study["question"] == "Does it run?"
    assert (study["workload"], study["seeds"], study["command"]) == ("tiny", [0], "run")
    assert study["provenance"] == {"git_commit": "abc"}
    assert [(arm["name"], arm["schedule"]) for arm in study["arms"]] == [
        ("each", {"kind": "fixed"}),
        ("once", {"kind": "once"}),
        ("best", {"kind": "resolved"}),
    ]

    spec = expand(tiny_experiment)[0]
    results.add(spec)
    path = tmp_path / "r" / "trials" / spec.trial_id / "trial.json"
    record = json.loads(path.read_text())
    assert record["config"] == spec.config
    shown = {k: v for k, v in record.items() if k not in ("config", "trial_id", "needs")}
    assert shown == {
        "schema_version": 2,
        "experiment": "tiny_experiment",
        "workload": "tiny",
        "arm": "each",
        "label": "each",
        "seed": 0,
        "status": "pending",
        "provenance": None,
        "started": None,
        "finished": None,
        "error": None,
        "summary": None,
        "stopped": None,
        "leakage": [],
    }

    results.update(spec.trial_id, "finished", summary={"test_acc": 1.0})
    results.add(spec)  # A second run of the study must not undo the first.
    assert results.status(spec.trial_id) == "finished"
    assert [record["summary"] for record in results.trials()] == [{"test_acc": 1.0}]


def test_the_same_study_goes_on_and_gains_seeds_when_asked_to(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    begin(results, with_seeds(tiny_experiment, 0, 1))
    started = results.study()["started"]
    begin(results, with_seeds(tiny_experiment, 0))
    assert results.study()["seeds"] == [0, 1]
    wider = with_seeds(tiny_experiment, 0, 1, 2)
    with pytest.raises(ValueError, match=rf"^seeds: got \[0, 1, 2\].*--resume {tmp_path} --extend"):
        begin(results, wider)
    begin(results, wider, extend=True)
    assert results.study()["seeds"] == [0, 1, 2]
    assert results.study()["started"] == started
    # Once there, they are part of the study.
    begin(results, wider)
    assert load(results).seeds == (0, 1, 2)


def test_arms_are_added_when_asked_to_and_never_changed(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    never = Arm(name="never", label="never", overrides={"schedule": {"kind": "never"}})
    wider = tiny_experiment.model_copy(update={"arms": (*tiny_experiment.arms, never)})
    with pytest.raises(ValueError, match=r"^arms: got .*'never'.*--extend"):
        begin(results, wider)
    begin(results, wider, extend=True)
    assert [arm["name"] for arm in results.study()["arms"]] == ["each", "once", "best", "never"]
    with pytest.raises(ValueError, match=r"arms\.never: \{.*\.\.\. -> null"):
        begin(results, tiny_experiment, extend=True)
    other = never.model_copy(update={"overrides": {"schedule": {"kind": "once", "at": 2}}})
    changed = tiny_experiment.model_copy(update={"arms": (*tiny_experiment.arms, other)})
    with pytest.raises(ValueError, match=r"arms\.never\.schedule\.kind: \"never\" -> \"once\""):
        begin(results, changed, extend=True)


def test_an_exploration_gains_samples_and_seeds_and_loses_none(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results, experiment = Results(tmp_path), exploring(tiny_experiment)
    begin(results, experiment)
    more = exploring(tiny_experiment, samples=5)
    with pytest.raises(ValueError, match="^samples: got 5, allowed: 3, .*--extend"):
        begin(results, more)
    with pytest.raises(ValueError, match=r"^seeds: got \[0, 1\], allowed: \[0\], .*--extend"):
        begin(results, with_seeds(experiment, 0, 1))
    begin(results, more, extend=True)
    begin(results, experiment)  # Fewer leave what is there.
    assert load(results).exploration == more.exploration
    for extend in (False, True):
        with pytest.raises(ValueError, match=r"^seeds: got \[1\], allowed: \[0\], over which"):
            begin(results, with_seeds(experiment, 1), extend=extend)
        with pytest.raises(ValueError, match="^arms: got .*'x'.*by which"):
            arms = (*experiment.arms, Arm(name="x", label="", overrides={"schedule.kind": "never"}))
            begin(results, experiment.model_copy(update={"arms": arms}), extend=extend)
        with pytest.raises(ValueError, match=r"exploration\.sampler: \"tpe\" -> \"nsga2\""):
            begin(results, exploring(tiny_experiment, sampler="nsga2"), extend=extend)
        grid = experiment.model_copy(update={"exploration": None})
        with pytest.raises(ValueError, match=r"exploration: \{.* -> null"):
            begin(results, grid, extend=extend)
    begin(results, with_seeds(more, 0, 1), extend=True)
    assert load(results).seeds == (0, 1)


def test_another_study_is_refused(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    other = tiny_experiment.model_copy(update={"name": "another"})
    with pytest.raises(ValueError, match="--experiment: got 'another', allowed: 'tiny_experiment'"):
        begin(results, other)
    workload = tiny_experiment.workload.model_copy(update={"name": "big"})
    with pytest.raises(ValueError, match="--workload: got 'big', allowed: 'tiny'"):
        begin(results, tiny_experiment.model_copy(update={"workload": workload}))
    for value, shown in ((5, "3 -> 5"), (4, "3 -> 4")):
        longer = apply_settings(tiny_experiment, {"search_phase.epochs": value})
        with pytest.raises(
            ValueError, match=rf"other settings(.|\n)*each\.search_phase\.epochs: {shown}"
        ):
            begin(results, longer, extend=True)
    fewer = tiny_experiment.model_copy(update={"arms": tiny_experiment.arms[:2]})
    with pytest.raises(ValueError, match=r"best: \{.*\.\.\. -> null"):
        begin(results, fewer)


def test_a_number_written_another_way_makes_other_trials_and_so_another_study(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    def of(every: float) -> Experiment:
        arm = Arm(
            name="a", label="a", overrides={"schedule": {"kind": "adaptive", "growth": every}}
        )
        return tiny_experiment.model_copy(update={"arms": (arm,)})

    assert expand(of(2))[0].trial_id != expand(of(2.0))[0].trial_id
    results = Results(tmp_path)
    begin(results, of(2))
    with pytest.raises(ValueError, match=r"arms\.a\.schedule\.growth: 2 -> 2\.0"):
        begin(results, of(2.0))


def test_the_file_of_a_study_is_its_experiment(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path)
    asked = apply_settings(tiny_experiment, {"search_phase.epochs": 5})
    begin(results, asked)
    assert load(results) == read_config(tmp_path / "study.yaml") == asked
    assert expand(load(results)) == expand(asked)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 3", "epochs: 4", r"was edited.*--config FILE.*\n.*search_phase\.epochs: 3 -> 4"),
        ("workload:\n  name: tiny", "workload:\n  name: big", r'workload: "tiny" -> "big"'),
        ("seeds: [0]", "seeds: [0, 1]", "^seeds: .*--extend"),
        ("seeds: [0]", "seds: [0]", "did you mean 'seeds'"),
        ("name: once", "name: twice", r"arms\.best\.needs"),
    ],
)
def test_an_edited_file_is_refused_where_the_results_are(
    old: str, new: str, message: str, tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    text = results.config_file.read_text()
    assert old in text
    results.config_file.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        load(results)


def test_a_kill_between_the_two_files_leaves_a_study_that_goes_on(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    before = results.config_file.read_bytes()
    wider = with_seeds(tiny_experiment, 0, 1)
    begin(results, wider, extend=True)
    results.config_file.write_bytes(before)  # As it was when the record was written already.
    assert load(results).seeds == (0,)
    begin(results, wider, extend=True)
    assert load(results).seeds == (0, 1)


def test_what_a_driver_leaves_before_it_has_begun_is_no_stranger(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    (tmp_path / "driver.lock").touch()
    (tmp_path / ".study.json.0123.tmp").touch()
    begin(Results(tmp_path), tiny_experiment)
    assert expand(load(Results(tmp_path))) == expand(tiny_experiment)


def test_a_study_begins_with_trials_that_were_copied_from_another_one(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    """How to vary a study without running again what the new settings leave as it was."""
    old, new = Results(tmp_path / "old"), Results(tmp_path / "new")
    begin(old, tiny_experiment)
    for spec in expand(tiny_experiment):
        old.add(spec)
        old.update(spec.trial_id, "finished", summary={"test_acc": 1.0})
    shutil.copytree(old.root / "trials", new.root / "trials")
    arms = {arm.name: arm for arm in tiny_experiment.arms}
    later = arms["once"].model_copy(update={"overrides": {"schedule": {"kind": "once", "at": 2}}})
    varied = tiny_experiment.model_copy(update={"arms": (arms["each"], later, arms["best"])})
    each, *others = (spec.trial_id for spec in expand(tiny_experiment))
    with pytest.raises(ValueError, match="-best-.*-once-.*with these settings.*delete these$"):
        begin(new, varied)
    assert not new.study_file.exists()
    for trial_id in others:
        shutil.rmtree(new.folder(trial_id))
    begin(new, varied)
    for spec in expand(varied):
        new.add(spec)
    statuses = {record["arm"]: record["status"] for record in new.trials()}
    assert statuses == {"each": "finished", "once": "pending", "best": "pending"}


def test_a_newer_schema_is_refused(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    content = json.loads(results.study_file.read_text()) | {"schema_version": 3}
    results.study_file.write_text(json.dumps(content))
    for refused in (lambda: begin(results, tiny_experiment), lambda: load(results)):
        message = r"study\.json: schema_version: got 3, allowed: up to 2"
        with pytest.raises(ValueError, match=message):
            refused()


def test_a_study_of_schema_1_goes_on(tmp_path: Path, tiny_experiment: Experiment) -> None:
    results = Results(tmp_path)
    begin(results, tiny_experiment)
    spec = expand(tiny_experiment)[0]
    results.add(spec)
    trial_file = results.folder(spec.trial_id) / "trial.json"
    for path, new in ((results.study_file, "exploration"), (trial_file, "stopped")):
        content = json.loads(path.read_text())
        del content[new]
        path.write_text(json.dumps(content | {"schema_version": 1}))
    results.config_file.unlink()

    with pytest.raises(ValueError, match="a directory with study.yaml; .*by its command: run$"):
        load(results)
    (record,) = results.trials()
    assert record["stopped"] is None and results.trial(spec.trial_id) == record
    begin(results, tiny_experiment)
    assert load(results).arms == tiny_experiment.arms
    results.update(spec.trial_id, "stopped", stopped={"rung": 2})
    record = json.loads(trial_file.read_text())
    assert (record["schema_version"], record["stopped"]) == (2, {"rung": 2})


def test_a_folder_of_other_files_is_refused(tmp_path: Path, tiny_experiment: Experiment) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="--results: .*it has holiday.jpg"):
        begin(Results(tmp_path), tiny_experiment)


def test_a_place_that_cannot_be_written_is_refused(
    disk_of: Any, tmp_path: Path, tiny_experiment: Experiment
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--results: cannot write .*Not a directory"):
        begin(Results(tmp_path / "file" / "r"), tiny_experiment)
    with pytest.raises(ValueError, match="--results: got .*a directory; this is a file"):
        begin(Results(tmp_path / "file"), tiny_experiment)
    with (
        disk_of(100),
        pytest.raises(ValueError, match=r"--results: cannot write .*\(File too large"),
    ):
        begin(Results(tmp_path / "full"), tiny_experiment)
    # What could not be written is not there in part.
    assert not list((tmp_path / "full").iterdir())
    begin(Results(tmp_path / "full"), tiny_experiment)


def test_a_folder_without_a_study_has_none_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="results: .*a directory with study.json"):
        Results(tmp_path).study()


# One driver at a time.


def test_a_second_driver_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert not results.has_driver()
    with results.locked():
        assert results.has_driver()
        with pytest.raises(ValueError, match="--results, --resume: got .*no driver at work"):
            with Results(tmp_path).locked():
                pass
    assert not results.has_driver()
    assert [path.name for path in tmp_path.iterdir()] == ["driver.lock"]


def test_looking_for_a_driver_turns_none_away(tmp_path: Path) -> None:
    results = Results(tmp_path)
    with results.locked():
        pass
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            Results(tmp_path).has_driver()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            with results.locked():
                pass
    finally:
        done.set()
        looking.join()


def test_a_lock_leaves_a_fresh_directory_fit_for_a_study(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    with results.locked():
        assert results.check(tiny_experiment) is None


def test_what_cannot_be_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--results: got .*file.*; it is a file"):
        with Results(tmp_path / "file").locked():
            pass

    def missing(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", missing)
    with pytest.raises(ValueError, match="--results: cannot write to or lock .*not implemented"):
        with Results(tmp_path).locked():
            pass
    assert not Results(tmp_path).has_driver()


def test_a_folder_that_was_made_for_the_lock_alone_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "results" / "new"
    with pytest.raises(OSError, match="refused"), Results(root).locked():
        assert root.is_dir()
        raise OSError("refused")
    assert list(tmp_path.iterdir()) == []
    # One that was there stays, and so does one in which something was written.
    root.mkdir(parents=True)
    with Results(root).locked():
        pass
    assert root.is_dir()
    other = tmp_path / "other"
    with Results(other).locked():
        (other / "study.json").touch()
    assert {path.name for path in other.iterdir()} == {"study.json", "driver.lock"}
