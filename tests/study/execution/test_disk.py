import errno
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.tune import TuneError

from adacomcat.files import WriteError
from adacomcat.io.run import LogFile
from study.execution.disk import is_disk_full
from study.run import main
from study.spec.configfile import write_config
from study.spec.schema import Experiment

FULL = OSError(errno.ENOSPC, "No space left on device")
QUOTA = OSError(errno.EDQUOT, "Disk quota exceeded")
FORBIDDEN = OSError(errno.EACCES, "Permission denied")
LOST = WriteError(errno.EPERM, "Operation not permitted", "/results/trials/one/trial.json")


def behind(outer: Exception, cause: Exception | None, context: Exception | None) -> Exception:
    outer.__cause__, outer.__context__ = cause, context
    return outer


def of_a_task(cause: Exception) -> RayTaskError:
    """As `ray.get` raises what was raised in another process."""
    return RayTaskError("train", "the traceback there", cause).as_instanceof_cause()


def of_tune() -> TuneError:
    """As Tune raises what was raised while it handled a result."""
    try:
        try:
            raise FULL
        except OSError:
            raise TuneError(traceback.format_exc())  # noqa: B904
    except TuneError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        QUOTA,
        behind(RuntimeError("could not save"), QUOTA, None),
        behind(RuntimeError("while that was handled"), None, FULL),
        behind(RuntimeError("both"), FORBIDDEN, FULL),
        behind(RuntimeError("of a task"), of_a_task(FULL), None),
        of_a_task(FULL),
        of_tune(),
        # From another process: nothing but a text.
        TuneError(str(of_tune())),
        WorkerGroupError("of two workers", {0: FORBIDDEN, 1: FULL}),
        ControllerError(FULL),
        OSError(errno.EROFS, "Read-only file system"),
        # Lost in the middle, of the results.
        LOST,
        of_a_task(LOST),
        TuneError(f"adacomcat.files.WriteError: {LOST}"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_recognized_behind_other_errors(error: Exception) -> None:
    assert is_disk_full(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        FORBIDDEN,
        RuntimeError("[Errno 28] no space left on device"),
        of_a_task(FORBIDDEN),
        TuneError("[Errno 13] Permission denied"),
        WorkerGroupError("of two workers", {0: FORBIDDEN, 1: RuntimeError("lost")}),
        ControllerError(FORBIDDEN),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_full_disk(error: Exception | None) -> None:
    assert not is_disk_full(error)


def test_errors_that_lie_behind_one_another_in_a_ring() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_disk_full(one)


def raised() -> Any:
    logging.getLogger("ray.tune").error("the experiment's state could not be saved")
    raise of_tune()


def returned() -> Any:
    return [SimpleNamespace(error=of_a_task(FULL), config=None)]


@pytest.mark.ray
@pytest.mark.parametrize("fit", [raised, returned])
def test_a_full_disk_that_ray_meets_is_an_error_in_one_line(
    fit: Callable[[], Any],
    ray_cluster: Any,
    tiny_experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "results"
    monkeypatch.setattr("study.execution.log.LogFile", lambda path: LogFile("/dev/full"))
    stopped: list[bool] = []
    # The cluster is the session's.
    monkeypatch.setattr("study.execution.cluster.stop", lambda: stopped.append(True))
    monkeypatch.setattr("study.execution.tuner.tune.Tuner.fit", lambda self: fit())
    write_config(tiny_experiment, tmp_path / "study.yaml")
    asked = ("--config", str(tmp_path / "study.yaml"), "--results", str(root), "--quiet")
    assert main(asked) == 1
    assert stopped == [True]
    out, err = capfd.readouterr()
    full = "no space left, read-only, or not permitted"
    message = f"error: cannot write to {root} ({full}); what was finished is whole\n"
    assert err == message
    assert "rror" not in out
