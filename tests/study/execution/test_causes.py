import pytest
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

from study.execution.causes import behind, is_memory_short

KILLED = OutOfMemoryError("2 worker(s) were killed due to the node running low on memory.")


def of_tune() -> RuntimeError:
    """As Tune raises what none of its callbacks takes."""
    error = RuntimeError(f"Caught unexpected exception: {KILLED}")
    error.__cause__ = KILLED
    return error


@pytest.mark.parametrize(
    "error",
    [
        KILLED,
        of_tune(),
        RayTaskError("train", "the traceback there", KILLED),
        RayError(f"The actor is dead because its worker died: {KILLED}"),
        WorkerGroupError("of two workers", {0: RuntimeError("closed by peer"), 1: KILLED}),
        ControllerError(KILLED),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_want_of_memory_is_recognized_behind_other_errors(error: Exception) -> None:
    assert is_memory_short(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        # Of torch: the GPU is too small for the trial, and nobody was killed.
        RuntimeError("CUDA out of memory"),
        MemoryError(),
        WorkerGroupError("CUDA out of memory", {0: RuntimeError("CUDA out of memory")}),
        WorkerGroupError("of two workers", {0: MemoryError(), 1: RuntimeError("lost")}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_want_of_memory(error: Exception | None) -> None:
    assert not is_memory_short(error)


def test_errors_that_lie_behind_one_another_in_a_ring() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert list(behind(one)) == [one, other]
