import os
from pathlib import Path

import pytest

from study.execution.environment import asked_cluster, set_environment

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def test_the_environment_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "77")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/somewhere")
    for name in ("RAY_ADDRESS", LOOPBACK, "RAY_TRAIN_ENABLE_STATE_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    set_environment(address="10.0.0.1:6379")
    # The nodes of a cluster must reach each other.
    assert LOOPBACK not in os.environ
    set_environment(dashboard=True)
    assert os.environ[LOOPBACK] == "0"
    set_environment()  # A second call adds nothing to the path.
    assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "77"
    root, *others = os.environ["PYTHONPATH"].split(os.pathsep)
    assert (Path(root) / "study" / "execution" / "cluster.py").is_file()
    assert others == ["/somewhere"]


@pytest.mark.parametrize(
    ("flag", "environment", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        ("local", "10.0.0.1:6379", None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("auto", None, "auto"),
        # As Ray itself: `auto` is whatever the environment says, first.
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
    ],
)
def test_which_cluster_is_asked_for(
    flag: str | None, environment: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert asked_cluster(flag) == expected
