from collections.abc import Callable
from typing import Any

import pytest

from study.show.board import Board
from study.spec.schema import TrialSpec

Clock = Callable[[float], None]


def spec(arm: str, seed: int = 0, epochs: tuple[int, int] = (6, 4)) -> TrialSpec:
    config = {"search_phase": {"epochs": epochs[0]}, "finetune": {"epochs": epochs[1]}}
    return TrialSpec(
        trial_id=f"w-{arm}-s{seed}",
        experiment="x",
        workload="w",
        arm=arm,
        label=arm,
        seed=seed,
        config=config,
    )


def row(step: int) -> dict[str, Any]:
    phase, epoch = ("search", step) if step < 6 else ("finetune", step - 6)
    return {
        "phase": phase,
        "epoch": epoch,
        "step_epoch": step,
        "val_acc": 0.5,
        "searches": 1,
        "params": 1000,
    }


def record(of: TrialSpec, status: str, **summary: Any) -> dict[str, Any]:
    return {
        "trial_id": of.trial_id,
        "arm": of.arm,
        "seed": of.seed,
        "config": of.config,
        "status": status,
        "error": "E: broken\n\nTraceback" if status == "failed" else None,
        "stopped": {"position": 6, "of": 7} if status == "stopped" else None,
        "summary": {"test_acc": 0.25, **summary} if status == "finished" else None,
    }


def finished(of: TrialSpec, val_acc: float, searches: int, params: int = 1000) -> dict[str, Any]:
    return record(of, "finished", val_acc=val_acc, searches=searches, params=params)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    now = [100.0]
    monkeypatch.setattr("study.show.board.time.monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_epochs_of_unknown_trials_are_those_of_the_known_ones_on_average() -> None:
    board = Board([spec("a"), spec("b", epochs=(2, 2))], trials=5)
    assert board.epochs() == (0, 14 + 3 * 7)
    board.start(spec("c", epochs=(16, 6)))
    assert board.epochs() == (0, 36 + 2 * 12)


def test_the_time_left_follows_from_the_epochs_of_this_session(clock: Clock) -> None:
    a, b, c = spec("a"), spec("b"), spec("c")
    board = Board([a, b, c], trials=3, records=[finished(c, 0.5, 1)])
    clock(50)  # The dense model is trained: no epoch of a trial.
    assert board.left_s() is None
    board.start(a)
    clock(2)
    assert board.left_s() is None, "nothing is claimed before the first epoch"
    # It goes on from an earlier session: six of its epochs are done, one in this session.
    board.update(a.trial_id, row(6))
    assert board.epochs() == (10 + 7, 30)
    assert board.left_s() == pytest.approx(13 * 2)
    clock(1.5)
    assert board.left_s() == pytest.approx(13 * 2 - 1.5)
    clock(2.5)
    board.update(a.trial_id, row(8))  # One in between was not told.
    assert board.left_s() == pytest.approx(11 * 2)
    board.end(a.trial_id, "finished", finished(a, 0.5, 1))
    assert board.epochs() == (20, 30)
    assert board.left_s() == pytest.approx(10 * 6 / 4), "the last epoch was not told either"


def test_a_stopped_trial_counts_as_done_and_a_failed_one_as_given_up(clock: Clock) -> None:
    a, b, c = spec("a"), spec("b"), spec("c")
    board = Board([a, b, c], trials=3)
    for each in (a, b):
        board.start(each)
        clock(1)
        board.update(each.trial_id, row(0))
    board.end(a.trial_id, "stopped", record(a, "stopped"))
    assert board.epochs() == (11, 30) and board.over() == 1
    assert board.left_s() == pytest.approx(19)
    line = board.end(b.trial_id, "failed", record(b, "failed"))
    assert line is not None and line.note == "E: broken"
    assert board.epochs() == (11, 30) and board.over() == 1
    assert board.left_s() == pytest.approx(10)


def test_of_seeds_in_turn_one_is_active_and_time_is_its_own(clock: Clock) -> None:
    one, two, other = spec("a", 0), spec("a", 1), spec("b", 0)
    board = Board([], trials=3, in_turn=True)
    for each in (one, two, other):
        board.start(each)

    def active() -> list[str]:
        return [line.name for line in board.active()]

    assert active() == ["a s0", "b s0"]
    clock(5)
    board.update(one.trial_id, row(0))
    clock(3)
    board.update(two.trial_id, row(0))
    assert active() == ["a s1", "b s0"]
    clock(4)
    board.update(one.trial_id, row(1))
    board.end(one.trial_id, "finished", finished(one, 0.5, 1))
    assert active() == ["a s1", "b s0"]
    clock(1)
    lines = board.lines
    assert [lines[each.trial_id].elapsed_s() for each in (one, two, other)] == [8, 5, 13]


def test_seeds_side_by_side_are_all_active() -> None:
    board = Board([spec("a", 0), spec("a", 1)], trials=2)
    board.start(spec("a", 0))
    board.start(spec("a", 1))
    assert len(board.active()) == 2


def test_the_best_trial_has_the_best_validation_accuracy() -> None:
    a, b, c = spec("a"), spec("b", 2), spec("c")
    board = Board([a, b, c], trials=3, records=[finished(a, 0.5, 9)])
    assert board.best is not None and board.best.name == "a s0", "of an earlier session"
    board.start(b)
    board.end(b.trial_id, "finished", finished(b, 0.75, 3, 2000))
    board.start(c)
    board.end(c.trial_id, "finished", record(c, "finished", val_acc=None, searches=0, params=1))
    best = board.best
    assert (best.name, best.val_acc, best.searches, best.params) == ("b s2", 0.75, 3, 2000)


def test_the_front_has_the_means_of_whole_arms_that_no_other_dominates() -> None:
    board = Board([], trials=8, objectives=("val_acc", "searches"), seeds=2)

    def end(arm: str, *values: tuple[float, int]) -> set[str]:
        for seed, (val_acc, searches) in enumerate(values):
            board.start(spec(arm, seed))
            of = spec(arm, seed)
            board.end(of.trial_id, "finished", finished(of, val_acc, searches))
        return set(board.front())

    assert end("a", (0.5, 4)) == set(), "a seed is missing"
    assert end("b", (0.4, 3), (0.6, 5)) == {"b"}
    assert end("worse", (0.5, 5), (0.5, 4)) == {"b"}
    assert end("fewer", (0.3, 1), (0.3, 1)) == {"b", "fewer"}
    assert end("best", (0.9, 3), (0.7, 4)) == {"best", "fewer"}
    assert end("equal", (0.8, 3), (0.8, 4)) == {"best", "equal", "fewer"}


def test_no_front_where_an_objective_is_not_in_the_summary() -> None:
    board = Board([spec("a")], trials=1, objectives=("val_loss",))
    board.start(spec("a"))
    board.end("w-a-s0", "finished", finished(spec("a"), 0.5, 1))
    assert not board.front()


def test_an_end_that_is_told_twice_is_no_news() -> None:
    a, b = spec("a"), spec("b")
    board = Board([a, b], trials=2, records=[finished(b, 0.5, 1)], objectives=("val_acc",))
    board.start(a)
    assert board.end(a.trial_id, "finished", finished(a, 0.6, 1)) is not None
    assert board.end(a.trial_id, "finished", finished(a, 0.6, 1)) is None
    assert board.end(b.trial_id, "finished", finished(b, 0.5, 1)) is None
    assert set(board.front()) == {"a"} and len(board.ended()) == 1


def test_trials_that_were_never_started_may_be_given_up() -> None:
    board = Board([], trials=2)
    unknown = spec("c_1a2b3c4d")
    assert board.end(unknown.trial_id, "interrupted", None) is None
    line = board.end(unknown.trial_id, "failed", record(unknown, "failed"))
    assert line is not None and line.name == "c_1a2b3c4d s0" and board.count("failed") == 1


def test_a_trial_that_failed_before_runs_again() -> None:
    a = spec("a")
    board = Board([a], trials=1, records=[record(a, "failed")])
    assert board.count("failed") == 0 and board.epochs() == (0, 10)
    board.start(a)
    board.end(a.trial_id, "failed", record(a, "failed"))
    board.start(a)
    assert board.count("running") == 1 and not board.ended()
