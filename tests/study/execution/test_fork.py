import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from study.execution.fork import fork
from study.explore.judge import Judge, read_verdicts
from study.spec.expand import apply_settings, arm_specs, expand, suggested_arm
from study.spec.exploration import Dimension, Exploration, Stopping
from study.spec.schema import FINAL, Arm, Experiment, Status, TrialSpec
from study.spec.space import suggest
from study.store import Results, TraceWriter, load


def begun(root: Path, experiment: Experiment) -> Results:
    results = Results(root)
    results.begin(experiment, command="run", provenance={})
    return results


def leave(results: Results, spec: TrialSpec, status: Status, val_acc: float = 0.5) -> None:
    """What a trial leaves in the store."""
    results.add(spec)
    folder = results.folder(spec.trial_id)
    writer = TraceWriter(folder)
    for epoch in range(4):
        writer.epoch({"step_epoch": epoch, "searches": 1, "val_acc": val_acc})
    writer.close()
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "last.pt").write_bytes(b"weights")
    (folder / ".lock").touch()
    summary = {"val_acc": val_acc, "searches": 1} if status == "finished" else None
    results.update(
        spec.trial_id,
        status,
        summary=summary,
        provenance={"git_commit": "abc"},
        error="x",
        stopped={"rung": 2} if status == "stopped" else None,
    )


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def grid(tiny_experiment: Experiment) -> Experiment:
    adaptive = Arm(name="adaptive", label="a", overrides={"schedule": {"kind": "adaptive"}})
    update = {"arms": (*tiny_experiment.arms, adaptive), "seeds": (0, 1)}
    return tiny_experiment.model_copy(update=update)


def test_what_the_settings_leave_unchanged_is_taken_over(tmp_path: Path, grid: Experiment) -> None:
    old = begun(tmp_path / "old", grid)
    for spec in expand(grid):
        leave(old, spec, "failed" if (spec.arm, spec.seed) == ("once", 1) else "finished")
    before = files(old.root)
    new = Results(tmp_path / "new")
    asked = apply_settings(load(old), {"schedule.growth": 3.0})
    assert fork(old, asked, new) == asked == load(new)

    # `adaptive` is another arm now, and one trial had failed; `best` needs neither.
    taken = {(record["arm"], record["seed"]) for record in new.trials()}
    assert taken == {("each", 0), ("each", 1), ("once", 0), ("best", 0), ("best", 1)}
    for record in new.trials():
        trial_id = record["trial_id"]
        there, copied = files(old.folder(trial_id)), files(new.folder(trial_id))
        assert copied.keys() == {
            "trial.json",
            "epochs.jsonl",
            "searches.jsonl",
            "checkpoint/last.pt",
        }
        assert json.loads(copied.pop("trial.json")) == json.loads(there["trial.json"]) | {
            "provenance": {"git_commit": "abc", "forked_from": str(old.root)}
        }
        assert copied.items() <= there.items()
    statuses = {spec.trial_id: new.status(spec.trial_id) for spec in expand(asked)}
    assert list(statuses.values()).count("pending") == 3
    assert new.study()["forked_from"] == str(old.root)
    # The old study is only read, and no copy is left on the way.
    assert files(old.root) == before
    assert {path.name for path in new.root.iterdir()} == {"study.json", "study.yaml", "trials"}
    # Its origin stays when its driver begins.
    new.begin(asked, command="run", provenance={})
    assert new.study()["forked_from"] == str(old.root)


def test_settings_that_change_everything_leave_nothing_to_take(
    tmp_path: Path, grid: Experiment
) -> None:
    old = begun(tmp_path / "old", grid)
    for spec in expand(grid):
        leave(old, spec, "finished")
    new = Results(tmp_path / "new")
    fork(old, apply_settings(load(old), {"search.lr": 0.5}), new)
    assert new.trials() == []
    assert load(new).workload.defaults["search"]["lr"] == 0.5


def test_a_new_study_needs_a_place_of_its_own(tmp_path: Path, grid: Experiment) -> None:
    old = begun(tmp_path / "old", grid)
    (tmp_path / "link").symlink_to(old.root)
    for place in (old.root, old.root / "trials" / "x", tmp_path / "link" / "x"):
        with pytest.raises(ValueError, match=r"--fork: got .*a folder outside"):
            fork(old, grid, Results(place))
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="--fork: got .*a new folder, or an empty one"):
            fork(old, grid, Results(place))
    (tmp_path / "empty").mkdir()
    fork(old, grid, Results(tmp_path / "empty"))
    assert not (old.root / "trials").exists()


def test_settings_of_which_no_trial_can_be_built_begin_nothing(
    tmp_path: Path, grid: Experiment
) -> None:
    old = begun(tmp_path / "old", grid)
    impossible = apply_settings(load(old), {"budget.reduction": 0.999})
    with pytest.raises(ValueError, match="budget.reduction: got 0.999"):
        fork(old, impossible, Results(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def exploring(experiment: Experiment) -> Experiment:
    growth = Dimension(name="growth", setting="schedule.growth", kind="float", low=1, high=4)
    exploration = Exploration(
        space=(growth,),
        objectives=("val_acc",),
        samples=9,
        start=0,
        overrides={"schedule": {"kind": "adaptive"}},
        stopping=Stopping(rungs=(2,)),
    )
    change = {"arms": experiment.arms[:1], "seeds": (0, 1), "exploration": exploration}
    return experiment.model_copy(update=change)


def explored(
    root: Path, experiment: Experiment, ended: Sequence[tuple[Status, float]]
) -> tuple[Results, list[dict[str, Any]], list[list[TrialSpec]]]:
    """A study of a reference and of suggested arms that ended so, with such an accuracy."""
    from study.explore.optuna_study import open_study

    results = begun(root, experiment)
    study = open_study(experiment, results)
    exploration = experiment.exploration
    assert exploration is not None and exploration.stopping is not None
    judge = Judge(exploration.stopping, exploration.objectives, [], results.rungs_file)
    points, trials = [], []
    for status, val_acc in (("finished", 0.6), *ended):
        trial = study.ask()
        reference = trial.user_attrs.get("arm")
        if reference:
            specs = arm_specs(experiment, experiment.arms[0])
        else:
            points.append(suggest(exploration.space, trial))
            specs = arm_specs(experiment, suggested_arm(experiment, points[-1]))
            trials.append(specs)
        for spec in specs:
            leave(results, spec, status, val_acc)
        trial.set_user_attr("arm", specs[0].arm)
        trial.set_user_attr("seeds", [spec.seed for spec in specs])
        trial.set_user_attr("trials", [f"trials/{spec.trial_id}" for spec in specs])
        judge.ask(specs[0].arm, 2, (val_acc,))
    judge.close()
    return results, points, trials


def test_the_finished_suggestions_of_an_exploration_are_its_first_points(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    experiment = exploring(tiny_experiment)
    old, points, trials = explored(
        tmp_path / "old",
        experiment,
        [("finished", 0.5), ("stopped", 0.1), ("finished", 0.7), ("failed", 0.9)],
    )
    new = Results(tmp_path / "new")
    forked = fork(old, load(old), new)
    assert forked.exploration is not None
    assert list(forked.exploration.first) == [points[0], points[2]]
    assert load(new) == forked
    kept = [*expand(experiment), *trials[0], *trials[2]]
    assert {r["trial_id"] for r in new.trials()} == {spec.trial_id for spec in kept}
    assert all(record["status"] in FINAL for record in new.trials())
    # What is there already is not judged anew, when it could be stopped after its end.
    arms = [kept[0].arm, trials[0][0].arm, trials[2][0].arm]
    there = {verdict.arm: verdict for verdict in read_verdicts(old.rungs_file)}
    assert read_verdicts(new.rungs_file) == [there[arm] for arm in arms]


def test_under_other_settings_the_old_front_is_where_an_exploration_starts(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    experiment = exploring(tiny_experiment)
    ended: list[tuple[Status, float]] = [("finished", 0.5), ("finished", 0.7), ("stopped", 0.9)]
    old, points, _ = explored(tmp_path / "old", experiment, ended)
    new = Results(tmp_path / "new")
    forked = fork(old, apply_settings(load(old), {"search.lr": 0.5}), new)
    assert forked.exploration is not None
    # By accuracy alone the front is one arm; a stopped one has no values.
    assert list(forked.exploration.first) == [points[1]]
    assert new.trials() == [] and read_verdicts(new.rungs_file) == []


def test_an_arm_with_a_seed_left_is_taken_over_in_part_and_judged_anew(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    experiment = exploring(tiny_experiment)
    old, _, _ = explored(tmp_path / "old", experiment, [])
    second = expand(experiment)[1]
    old.update(second.trial_id, "interrupted", summary=None)
    new = Results(tmp_path / "new")
    fork(old, load(old), new)
    assert [record["seed"] for record in new.trials()] == [0]
    assert read_verdicts(new.rungs_file) == []
