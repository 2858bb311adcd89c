import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from study.explore.optuna_study import fail_arm, journal, left, open_study, read_study
from study.spec.schema import Experiment
from study.spec.space import quasi_random
from study.store import Results

Make = Callable[..., Experiment]


def load(results: Results) -> optuna.Study:
    """As a user does it."""
    storage = JournalStorage(JournalFileBackend(str(results.root / "optuna.journal")))
    return optuna.load_study(study_name="exploring", storage=storage)


def queue(study: optuna.Study) -> list[dict[str, object]]:
    assert all(trial.state == TrialState.WAITING for trial in study.trials)
    return [trial.system_attrs["fixed_params"] for trial in study.trials]


def test_references_come_first_then_quasi_random_points(
    exploration: Make, results: Results
) -> None:
    experiment = exploration(start=3)
    open_study(experiment, results)
    study = load(results)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    asked = experiment.exploration
    assert asked is not None
    points = quasi_random(asked.space, 3, asked.seed)
    assert queue(study) == [{"growth": 2.0, "capped": False}, {}, *points]
    assert [trial.user_attrs.get("arm") for trial in study.trials[:2]] == ["usual", "once"]
    assert left(experiment, study) == 2 + 6


def test_no_more_points_than_samples(exploration: Make, results: Results) -> None:
    assert len(open_study(exploration(samples=1, start=8), results).trials) == 2 + 1


def test_opening_again_adds_nothing(exploration: Make, results: Results) -> None:
    first = queue(open_study(exploration(), results))
    size = journal(results).stat().st_size
    assert queue(open_study(exploration(), results)) == first
    # Only that somebody wanted to create it.
    assert [t.number for t in load(results).trials] == [0, 1, 2, 3]
    assert journal(results).stat().st_size - size < 200


def test_an_extension_adds_the_missing_points(exploration: Make, results: Results) -> None:
    few = queue(open_study(exploration(samples=2, start=4), results))
    more = queue(open_study(exploration(samples=9, start=4), results))
    assert more[:4] == few and len(more) == 2 + 4
    wanted = exploration().exploration
    assert wanted is not None
    assert more[2:] == quasi_random(wanted.space, 4, wanted.seed)
    assert left(exploration(samples=9), load(results)) == 2 + 9


def test_what_a_kill_leaves_in_the_storage_is_cleared(exploration: Make, results: Results) -> None:
    open_study(exploration(), results)
    path = journal(results)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"work')
    lock = Path(f"{path}.lock")
    lock.symlink_to(path)
    study = open_study(exploration(), results)
    # Optuna would wait half a minute for the lock, and glue its line to the torn one.
    trial = study.ask()
    assert not lock.exists()
    assert trial.user_attrs["arm"] == "usual"
    lines = path.read_bytes().splitlines()
    assert all(json.loads(line) for line in lines) and len(load(results).trials) == 4


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_kill_while_the_queue_is_filled_loses_nothing(
    exploration: Make, results: Results, cut: int
) -> None:
    expected = queue(open_study(exploration(), results))
    lines = journal(results).read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    journal(results).write_bytes(b"".join(lines[:cut]) + b'{"half')
    assert queue(open_study(exploration(), results)) == expected


def test_reading_changes_nothing_also_of_a_half_written_line(
    exploration: Make, results: Results
) -> None:
    with pytest.raises(ValueError, match="optuna.journal"):
        read_study(exploration(), results)
    assert not results.root.exists()
    open_study(exploration(), results)
    path = journal(results)
    path.write_bytes(path.read_bytes() + b'{"op_code":4,"work')
    before = path.read_bytes()
    assert len(read_study(exploration(), results).trials) == 4
    assert path.read_bytes() == before
    other = exploration().model_copy(update={"name": "other"})
    with pytest.raises(ValueError, match="study: got 'other', allowed: exploring"):
        read_study(other, results)


def test_an_arm_that_was_given_up_is_not_run_again(
    exploration: Make, results: Results, drive: Callable[[Experiment], Any]
) -> None:
    experiment = exploration(samples=3)
    specs = drive(experiment).ask()
    for spec in specs:
        results.update(spec.trial_id, "failed", error="OutOfMemoryError: alone")
    fail_arm(experiment, results, specs[0].arm, "OutOfMemoryError: alone\n\nTraceback")
    again = drive(experiment)
    again.run()
    assert specs[0].arm not in again.arms
    first, *others = read_study(experiment, results).trials
    assert first.state == TrialState.FAIL
    assert first.user_attrs["error"] == "OutOfMemoryError: alone"
    assert {trial.state for trial in others} == {TrialState.COMPLETE}


def test_a_damaged_line_of_the_journal_is_named(
    results: Results, exploration: Callable[..., Experiment]
) -> None:
    open_study(exploration(), results)
    path = journal(results)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\x00\x01 nonsense\n", *lines[2:]]))
    for read in (open_study, read_study):
        with pytest.raises(ValueError, match=r"optuna\.journal, line 3: not JSON"):
            read(exploration(), results)
