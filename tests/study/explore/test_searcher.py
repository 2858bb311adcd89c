import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from adacomcat.io.run import Status
from adacomcat.io.trace import EPOCHS
from study.explore.optuna_study import explored_arms, journal, left, read_study
from study.spec.exploration import Dimension
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

Make = Callable[..., Experiment]
Drive = Callable[[Experiment], Any]

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def trials(experiment: Experiment, results: Results) -> list[FrozenTrial]:
    return read_study(experiment, results).trials


def by_growth(spec: TrialSpec) -> Status:
    growth = spec.config["schedule"]["growth"]
    return "stopped" if growth < 2 else "failed" if growth > 3.5 else "finished"


def test_an_arm_is_told_with_the_means_of_its_seeds(
    exploration: Make, results: Results, drive: Drive
) -> None:
    experiment = exploration()
    driver = drive(experiment)
    driver.run()
    found = trials(experiment, results)
    assert [trial.user_attrs["arm"] for trial in found] == driver.arms
    assert driver.arms[:2] == ["usual", "once"] and len(found) == 2 + 6
    for trial in found:
        assert trial.user_attrs["seeds"] == [0, 1]
        assert trial.user_attrs["commit"] == "c0ffee"
        folders = [results.root / folder for folder in trial.user_attrs["trials"]]
        last = [results.epochs(folder.name)[-1] for folder in folders]
        means = [sum(row[name] for row in last) / 2 for name in ("val_acc", "searches")]
        assert trial.values == pytest.approx(means)
        middle = [results.epochs(folder.name)[1]["val_acc"] for folder in folders]
        assert trial.user_attrs["rungs"]["2"][0] == pytest.approx(sum(middle) / 2)
        assert sorted(trial.user_attrs["rungs"]) == ["1", "2"]
    assert found[0].params == {"growth": 2.0, "capped": False} and found[1].params == {}
    assert left(experiment, read_study(experiment, results)) == 0


def test_the_trials_of_a_suggestion_are_in_the_store(
    exploration: Make, results: Results, drive: Drive
) -> None:
    driver = drive(exploration())
    specs = driver.ask()
    assert [spec.seed for spec in specs] == [0, 1]
    for spec in specs:
        assert results.status(spec.trial_id) == "pending"
        assert results.trial(spec.trial_id)["config"] == spec.config


@pytest.mark.parametrize("objectives", [("val_acc",), ("val_acc", "searches", "params")])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_stopped_and_failed_arms_are_never_on_the_front(
    exploration: Make, results: Results, drive: Drive, sampler: str, objectives: tuple[str, ...]
) -> None:
    experiment = exploration(samples=16, objectives=objectives, sampler=sampler, start=8)
    drive(experiment).run(by_growth)
    study = read_study(experiment, results)
    for trial in study.trials[2:]:
        growth = trial.params["growth"]
        expected = PRUNED if growth < 2 else FAIL if growth > 3.5 else COMPLETE
        assert trial.state == expected
        if expected == PRUNED:
            assert trial.user_attrs["stopped"] == {"rung": 2}
            assert sorted(trial.user_attrs["rungs"]) == ["1", "2"]
            # Optuna takes them of one objective only.
            assert sorted(trial.intermediate_values) == ([1, 2] if len(objectives) == 1 else [])
        if expected == FAIL:
            assert trial.user_attrs["error"] == "ValueError: broken"
    assert {PRUNED, FAIL, COMPLETE} == {trial.state for trial in study.trials}
    assert all(trial.state == COMPLETE for trial in study.best_trials)


def test_values_that_are_no_numbers_fail_an_arm(
    exploration: Make, results: Results, drive: Drive
) -> None:
    experiment = exploration(samples=1)
    driver = drive(experiment)
    specs = driver.ask()
    for spec in specs:
        results.update(spec.trial_id, "finished")
        path = results.folder(spec.trial_id) / EPOCHS
        path.write_text('{"val_acc": NaN, "searches": 1}\n')
    driver.search.on_trial_complete("tune-0", {"val_acc": 0.5})
    trial = trials(experiment, results)[0]
    assert trial.state == FAIL
    assert "val_acc: got nan" in trial.user_attrs["error"]
    driver.run()
    assert [t.state for t in trials(experiment, results)] == [FAIL, COMPLETE, COMPLETE]


def test_a_lost_worker_fails_its_arm(exploration: Make, results: Results, drive: Drive) -> None:
    driver = drive(exploration())
    results.update(driver.ask()[0].trial_id, "running")
    driver.search.on_trial_complete("tune-0", error=True)
    trial = trials(exploration(), results)[0]
    assert (trial.state, trial.user_attrs["error"]) == (FAIL, "its worker was lost")


def test_an_interrupted_arm_goes_on_with_the_next_driver(
    exploration: Make, results: Results, drive: Drive
) -> None:
    experiment = exploration()
    driver = drive(experiment)
    asked = [driver.ask() for _ in range(3)]
    driver.end(asked[2])
    for number, specs in enumerate(asked[:2]):
        results.update(specs[0].trial_id, "interrupted")
        driver.search.on_trial_complete(f"tune-{number}", {"searches": 3})
    # The same driver does not take it up again: it was told to leave it.
    fourth = driver.ask()
    assert fourth[0].arm not in [specs[0].arm for specs in asked]
    assert left(experiment, read_study(experiment, results)) == 2 + 6 - 1
    later = drive(experiment)
    assert [later.ask() for _ in range(3)] == [asked[0], asked[1], fourth]


def test_a_kill_at_any_moment_leaves_one_trial_a_sample_and_none_running(
    exploration: Make, results: Results, drive: Drive, tmp_path: Path
) -> None:
    """The storage is cut after every other line, and within one; what follows is as if it was not.

    Killed again an arm later, so that trials of two dead drivers are found.
    """
    experiment = exploration(samples=3, start=1, seeds=(0,))
    drive(experiment).run(by_growth)
    expected = [(trial.params, trial.state) for trial in trials(experiment, results)]
    lines = journal(results).read_bytes().splitlines(keepends=True)
    store = tmp_path / "whole"
    shutil.copytree(results.root, store)
    for cut in range(1, len(lines), 2):
        shutil.rmtree(results.root)
        if cut % 4 == 1:
            shutil.copytree(store, results.root)  # The store was ahead of Optuna.
        results.root.mkdir(exist_ok=True)
        journal(results).write_bytes(b"".join(lines[:cut]) + lines[cut][: cut % 7])
        second = drive(experiment)
        specs = second.ask()
        if specs is not None:
            reference = specs[0].arm in ("usual", "once")
            second.end(specs, "finished" if reference else by_growth(specs[0]))
            second.ask()
        third = drive(experiment)
        remaining = left(experiment, read_study(experiment, results))
        third.run(by_growth)
        assert len(third.arms) == remaining
        found = trials(experiment, results)
        assert [trial.state.is_finished() for trial in found] == [True] * 5, cut
        assert [(trial.params, trial.state) for trial in found] == expected, cut


def test_more_samples_go_on_where_the_study_was(
    exploration: Make, results: Results, drive: Drive
) -> None:
    drive(exploration(samples=4)).run()
    before = [trial.params for trial in trials(exploration(), results)]
    wider = exploration(samples=9)
    assert left(wider, read_study(wider, results)) == 5
    driver = drive(wider)
    driver.run()
    found = trials(wider, results)
    assert len(driver.arms) == 5 and len(found) == 2 + 9
    assert [trial.params for trial in found[:6]] == before
    assert drive(wider).ask() is None


def test_more_seeds_reach_the_finished_arms(
    exploration: Make, results: Results, drive: Drive
) -> None:
    drive(exploration()).run(by_growth)
    study = read_study(exploration(), results)
    arms = [arm.name for arm, trial in explored_arms(exploration(), study) if trial.values]
    assert 2 < len(arms) < 8
    wider = exploration(seeds=(0, 1, 2))
    assert left(wider, study) == len(arms)
    driver = drive(wider)
    first = driver.ask()
    assert [spec.seed for spec in first] == [0, 1, 2]
    assert [results.status(spec.trial_id) for spec in first] == ["finished", "finished", "pending"]
    # A kill here: the arm still lacks its seed.
    driver = drive(wider)
    driver.run()
    assert driver.arms == arms
    assert left(wider, read_study(wider, results)) == 0
    assert len(trials(wider, results)) == 2 + 6


def test_a_sampler_that_comes_back_runs_nothing_twice(
    exploration: Make, results: Results, drive: Drive
) -> None:
    """Four points in all, one of them a reference; ten suggestions."""
    space = tuple(
        Dimension(name=name, setting=f"schedule.{name}", kind="choice", choices=choices)
        for name, choices in (("growth", (2.0, 3.0)), ("due", ("modulo", "elapsed")))
    )
    points = {"usual": {"growth": 2.0, "due": "modulo"}}
    experiment = exploration(space=space, points=points, samples=10, sampler="nsga2")
    driver = drive(experiment)
    driver.run()
    assert len(trials(experiment, results)) == 12
    assert len(driver.arms) == 12 and set(driver.arms[:2]) == {"usual", "once"}
    assert 3 <= len(set(driver.arms)) <= 5
    records = results.trials()
    assert len(records) == 2 * len(set(driver.arms))
    configs = {str(record["config"]) for record in records}
    assert len(configs) == len(records)


def test_a_suggestion_that_makes_no_trial_is_told_and_passed_over(
    exploration: Make, results: Results, drive: Drive
) -> None:
    bad = Dimension(name="steps", setting="search.steps", kind="int", low=-3, high=3)
    experiment = exploration(space=(bad,), points={}, samples=6)
    driver = drive(experiment)
    driver.run()
    found = trials(experiment, results)
    assert len(found) == 8
    for trial in found[2:]:
        refused = trial.params["steps"] <= 0
        assert trial.state == (FAIL if refused else COMPLETE)
        assert ("search.steps: got" in trial.user_attrs.get("error", "")) == refused
    assert {FAIL, COMPLETE} <= {trial.state for trial in found[2:]}


def test_the_searcher_survives_pickling(exploration: Make, results: Results, drive: Drive) -> None:
    driver = drive(exploration())
    specs = driver.ask()
    copy = pickle.loads(pickle.dumps(driver.search))
    driver.search = copy
    driver.end(specs)
    assert trials(exploration(), results)[0].state == COMPLETE


def test_what_a_storage_that_cannot_be_written_misses_is_told_by_the_next_driver(
    exploration: Make, results: Results, drive: Drive
) -> None:
    experiment = exploration()
    driver = drive(experiment)
    specs = driver.ask()
    path, aside = journal(results), results.root / "aside"
    path.rename(aside)
    path.mkdir()
    with pytest.raises(OSError, match="optuna.journal"):
        driver.end(specs)
    path.rmdir()
    aside.rename(path)
    later = drive(experiment)
    assert later.ask() == specs
    later.search.on_trial_complete("tune-0")
    assert trials(experiment, results)[0].state == COMPLETE


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_ray_tune_runs_what_is_left(
    exploration: Make, results: Results, drive: Drive, ray_cluster: Any, tmp_path: Path
) -> None:
    from ray import tune

    experiment = exploration(samples=4, seeds=(0,))
    drive(experiment).ask()
    search = drive(experiment).search
    root = str(results.root)

    def trial(config: dict[str, Any]) -> None:
        store = Results(Path(root))
        for trial_id in config["trials"]:
            number = store.spec(trial_id).config["schedule"].get("growth", 2.0)
            row = f'{{"val_acc": {number / 10}, "searches": 2}}\n'
            (store.folder(trial_id) / EPOCHS).write_text(row * 2)
            store.update(trial_id, "finished")
        tune.report({"whatever": 1})

    tune.Tuner(
        tune.with_resources(trial, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=left(experiment, read_study(experiment, results)),
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
    ).fit()
    found = trials(experiment, results)
    assert [trial.state for trial in found] == [COMPLETE] * 6
    assert all(t.values == [t.params["growth"] / 10, 2.0] for t in found if t.params)
    assert len(results.trials()) == 6
    assert optuna.load_study(
        study_name="exploring",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(f"{root}/optuna.journal")
        ),
    ).best_trials
