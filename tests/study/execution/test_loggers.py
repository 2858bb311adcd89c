import importlib.util
import os
from pathlib import Path

import pytest

from study.execution.loggers import PACKAGES, make_callbacks


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what loggers change in the environment."""
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "3600")


def test_each_name_makes_one_callback(tmp_path: Path) -> None:
    assert make_callbacks([], tmp_path, "x") == []
    assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "3600"
    assert len(make_callbacks(["tensorboard", "tensorboard"], tmp_path, "x")) == 1
    assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "10"


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_a_missing_package_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"--log-to: got '{name}'.* pip install {package}"):
        make_callbacks([name], tmp_path, "x")


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_folder_named_like_a_package_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(ValueError, match="pip install wandb"):
        make_callbacks(["wandb"], tmp_path, "x")


def test_mlflow_writes_into_the_results_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (logger,) = make_callbacks(["mlflow"], tmp_path, "x")
    assert logger.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    (logger,) = make_callbacks(["mlflow"], tmp_path, "x")
    assert logger.tracking_uri == "http://elsewhere"


def test_wandb_is_offline_unless_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (logger,) = make_callbacks(["wandb"], tmp_path, "x")
    assert (logger.project, logger.group) == ("adacomcat", "x")
    assert logger.kwargs["mode"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    (logger,) = make_callbacks(["wandb"], tmp_path, "x")
    assert logger.kwargs["mode"] == "online"
