"""What a study does after losses, in the order in which they come; without Ray."""

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import pytest
from ray.exceptions import OutOfMemoryError

from study.execution import supervisor
from study.execution.causes import MemoryShort
from study.execution.placement import Placement
from study.execution.supervisor import DiskFull, GivenUp, Halt, Supervisor
from study.execution.watch import Watch

KILLED = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.")
PLACEMENT = Placement("tune", 1, 1.0, 0.0, 4)

Attempt = str | BaseException | None
"""How a run ends: `raylet`, a process of Ray that has died; an error; None, at its end."""


@dataclass
class Study:
    """A run that ends as it is told, each time."""

    attempts: Iterator[Attempt]
    epoch_each: bool = False
    concurrent: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False

    def run(self, placement: Placement, watch: Watch) -> None:
        self.concurrent.append(placement.concurrent)
        end = next(self.attempts)
        if isinstance(end, str):
            watch.lost = end
            raise Halt
        if end is not None:
            raise end

    def rows(self) -> int:
        return len(self.concurrent) if self.epoch_each else 0

    def running(self) -> Sequence[str]:
        return [name for name in ("a", "b", "c") if name not in self.failed][:1]

    def fail(self, trial_ids: Sequence[str], error: Exception) -> None:
        assert str(error) == str(KILLED)
        self.failed += trial_ids

    def mark_interrupted(self) -> None:
        self.interrupted = True


@dataclass
class Machine:
    """What the supervisor does to Ray, and hears of the memory."""

    said: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    short: int = 0
    """So many looks find no memory."""
    slots: int = 4

    def supervise(self, study: Study, *, ours: bool = True) -> None:
        restart = self.restart if ours else None
        Supervisor(study, "/results", PLACEMENT, restart, self.said.append).run()

    def restart(self) -> Placement:
        self.calls.append("start")
        return Placement("tune", 1, 1.0, 0.0, self.slots)

    def is_short(self) -> bool:
        self.short -= 1
        return self.short >= 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("study.execution.cluster.endpoints", lambda: ({}, 0.0))
    monkeypatch.setattr("study.execution.cluster.stop", lambda: made.calls.append("stop"))
    monkeypatch.setattr("study.execution.memory.is_short", made.is_short)
    monkeypatch.setattr("study.execution.supervisor.time.sleep", made.slept.append)
    return made


def short() -> Exception:
    """As Tune raises it."""
    error = RuntimeError(f"Caught unexpected exception: {KILLED}")
    error.__cause__ = KILLED
    return error


def test_an_undisturbed_study_runs_once(machine: Machine) -> None:
    study = Study(iter([None]))
    machine.supervise(study)
    assert (study.concurrent, machine.calls, machine.said) == ([4], [], [])


@pytest.mark.parametrize("error", [short, lambda: halted(MemoryShort(str(KILLED)))])
def test_after_a_want_of_memory_it_goes_on_with_fewer_at_once(
    machine: Machine, error: Callable[[], BaseException]
) -> None:
    study = Study(iter([error(), error(), error(), None]), epoch_each=True)
    machine.supervise(study)
    assert study.concurrent == [4, 4, 2, 1]
    assert machine.calls == ["stop", "start"] * 3
    what = "Ray stopped workers because this machine was short of memory; going on with"
    assert machine.said == [
        f"{what} 4 trials at once",
        f"{what} 2 trials at once",
        f"{what} 1 trial at once",
    ]
    assert not study.failed and not study.interrupted


def halted(cause: Exception) -> Halt:
    made = Halt()
    made.__cause__ = cause
    return made


def test_a_trial_fails_that_dies_of_memory_alone(machine: Machine) -> None:
    # Down to one at once, then twice for `a`, and `b` has the memory.
    study = Study(iter([*(short() for _ in range(5)), None]))
    machine.supervise(study)
    assert study.concurrent == [4, 4, 2, 1, 1, 1]
    assert study.failed == ["a"]
    assert machine.said[-1].endswith("though only a ran; going on without it")
    assert machine.slept == [5.0, 10.0, 20.0]


def test_a_trial_that_gets_on_before_it_dies_has_not_failed(machine: Machine) -> None:
    study = Study(iter([*(short() for _ in range(30)), None]), epoch_each=True)
    machine.supervise(study)
    assert not study.failed and set(study.concurrent[3:]) == {1}
    assert machine.slept == []


def test_all_trials_may_be_too_large(machine: Machine) -> None:
    study = Study(iter([*(short() for _ in range(9)), None]))
    machine.supervise(study)
    assert study.failed == ["a", "b", "c"]


def test_it_gives_up_where_memory_is_lost_before_anything_runs(machine: Machine) -> None:
    study = Study(repeat(short()), failed=["a", "b", "c"])
    with pytest.raises(GivenUp, match="11 times in a row; .* --resume, or the same command"):
        machine.supervise(study)
    assert study.interrupted


def test_it_waits_for_memory_that_others_use(machine: Machine) -> None:
    machine.short = 3
    machine.supervise(Study(iter([short(), None])))
    assert machine.slept == [1.0] * 3


def test_it_does_not_wait_for_ever(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MEMORY_WAIT_S", -1.0)
    machine.short = 10**6
    with pytest.raises(GivenUp, match="used up, by others; what was recorded is whole"):
        machine.supervise(Study(iter([short(), None])))


def test_a_dead_ray_is_started_again(machine: Machine) -> None:
    machine.slots = 1
    study = Study(iter(["raylet", "gcs_server", None]))
    machine.supervise(study)
    # As many as fit now; and no more than before.
    assert study.concurrent == [4, 1, 1]
    assert machine.said == [
        "Ray's raylet has died; starting Ray again (1 of 3)",
        "Ray's gcs_server has died; starting Ray again (2 of 3)",
    ]
    assert machine.calls == ["stop", "start"] * 2


def test_an_error_of_a_ray_that_dies_is_its_death(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(iter([OutOfMemoryError("the cause is not known yet"), None]))
    monkeypatch.setattr(Watch, "settle", lambda self: setattr(self, "lost", "raylet"))
    machine.supervise(study)
    assert study.concurrent == [4, 4]


def test_it_gives_up_a_ray_that_dies_again_and_again(machine: Machine) -> None:
    study = Study(repeat("raylet"))
    with pytest.raises(GivenUp, match="Ray's raylet has died, 4 times in a row; what was recorded"):
        machine.supervise(study)
    assert study.interrupted and machine.calls[-1] == "stop"
    # With epochs in between it goes on.
    machine.supervise(Study(iter([*["raylet"] * 9, None]), epoch_each=True))


def test_a_ray_that_does_not_start_again_is_an_error_in_one_line(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Machine) -> Placement:
        raise ValueError("--address: no connection")

    monkeypatch.setattr(Machine, "restart", refuse)
    with pytest.raises(GivenUp, match="not start again: --address: no connection; what was"):
        machine.supervise(Study(iter(["raylet"])))


def test_a_ray_of_somebody_else_is_not_started_again(machine: Machine) -> None:
    with pytest.raises(GivenUp, match="Ray's raylet has died; what was recorded is whole"):
        machine.supervise(Study(iter(["raylet"])), ours=False)
    machine.calls.clear()
    machine.supervise(Study(iter([short(), None])), ours=False)
    assert machine.calls == []


@pytest.mark.parametrize(
    ("end", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (halted(OSError(errno.ENOSPC, "no space")), DiskFull),
        (ValueError("anything else"), ValueError),
    ],
    ids=["interrupt", "disk", "other"],
)
def test_whatever_ends_it_leaves_no_trial_running(
    machine: Machine, end: BaseException, raised: type[BaseException]
) -> None:
    study = Study(iter([end]))
    with pytest.raises(raised):
        machine.supervise(study)
    assert study.interrupted and machine.calls == ["stop"]
