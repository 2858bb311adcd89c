"""The trials of a study in TensorBoard, MLflow or Weights & Biases, through Ray's own callbacks.

Ray's callbacks log one curve a Tune trial. Here a Tune trial is an arm whose seeds run in turn, and
Tune does not hear of every epoch. So each callback is shown one trial a seed, and what it logs is
read from the record, `epochs.jsonl`: complete, each epoch once, also after a resume.
"""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray import tune
from ray.tune.logger import LoggerCallback

from adacomcat.checks import require, require_known
from study.store import Results


def make_callbacks(names: Sequence[str], root: Path, experiment: str) -> list[tune.Callback]:
    """Callbacks for Tune that log every trial of a study.

    Args:
        names: of `LOGGERS`; one given twice counts once.
        root: the results directory, absolute.
        experiment: name of the experiment.

    Raises:
        ValueError: an unknown name, or a package that is not installed.
    """
    made: list[tune.Callback] = []
    for name in dict.fromkeys(names):
        require_known(name, LOGGERS, "--log-to")
        logger = LOGGERS[name]
        spec = importlib.util.find_spec(logger.package)
        # A folder of that name, which W&B itself makes, is found too, but has no origin.
        there = spec is not None and spec.origin is not None
        require(there, "--log-to", name, f"with its package: pip install {logger.package}")
        folder = root / name if logger.has_files else None
        made.append(TrialLogger(logger.make(root, experiment), root, folder))
    return made


def _tensorboard(root: Path, experiment: str) -> LoggerCallback:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(root: Path, experiment: str) -> LoggerCallback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    here = f"sqlite:///{root / 'mlflow.db'}"
    address = os.environ.get("MLFLOW_TRACKING_URI", here)
    return MLflowLoggerCallback(tracking_uri=address, experiment_name=experiment)


def _wandb(root: Path, experiment: str) -> LoggerCallback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    wandb: Any = importlib.import_module("wandb")
    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        # Else Ray refuses to start; `wandb sync` sends what was logged, whenever that is.
        os.environ.setdefault("WANDB_MODE", "offline")
    project = os.environ.get("WANDB_PROJECT", "adacomcat")
    mode = os.environ.get("WANDB_MODE", "online")
    return WandbLoggerCallback(project=project, group=experiment, mode=mode)


@dataclass(frozen=True)
class Logger:
    """One of Ray's loggers.

    Attributes:
        package: that it needs.
        make: makes its callback from the results directory and the name of the experiment.
        has_files: whether each trial needs a folder of its own.
    """

    package: str
    make: Callable[[Path, str], LoggerCallback]
    has_files: bool


LOGGERS: Mapping[str, Logger] = MappingProxyType(
    {
        "tensorboard": Logger("tensorboardX", _tensorboard, has_files=True),
        "mlflow": Logger("mlflow", _mlflow, has_files=False),
        "wandb": Logger("wandb", _wandb, has_files=True),
    }
)


@dataclass(eq=False)
class _Logged:
    """A trial of ours in the shape that Ray's loggers take theirs; one object a curve."""

    trial_id: str
    config: dict[str, Any]
    owner: str
    """The Tune trial that runs it."""
    local_path: str | None = None
    last: int = -1
    """The last epoch that was logged."""
    evaluated_params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.trial_id

    def init_local_path(self) -> None:
        """Make the folder anew: what an earlier session wrote is written again, from the record."""
        assert self.local_path is not None
        shutil.rmtree(self.local_path, ignore_errors=True)
        Path(self.local_path).mkdir(parents=True)


class TrialLogger(tune.Callback):
    """Shows one of Ray's loggers the trials of a study instead of Tune's."""

    def __init__(self, inner: LoggerCallback, root: Path, folder: Path | None) -> None:
        """
        Args:
            inner: of Ray.
            root: the results directory, absolute.
            folder: for the files of `inner`, in one folder a trial; None where it has none.
        """
        # Any: it is shown objects that only have the shape of Tune's trials.
        self._inner: Any = inner
        self._results, self._folder = Results(root), folder
        self._open: dict[str, _Logged] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into a file that nobody reads; open event files have no pickle.
        return {}

    def setup(self, *arguments: Any, **info: Any) -> None:
        self._inner.setup(*arguments, **info)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        # Under `trial_id` Tune puts the id of its own.
        trial_id = result.get("trial")
        if trial_id is not None and "step_epoch" in result:
            if trial_id not in self._open:
                self._start(trial_id, trial.trial_id)
            self._catch_up(self._open[trial_id])
        elif trial_id in self._open and "status" in result:
            # One that did not run in this session was logged in the session that ran it.
            self._end(self._open[trial_id], failed=result["status"] == "failed")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end_all(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end_all(trial, failed=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._inner.on_experiment_end(trials, **info)

    def _start(self, trial_id: str, owner: str) -> None:
        record = self._results.trial(trial_id)
        assert record is not None, trial_id
        config = {"arm": record["arm"], "seed": record["seed"], **record["config"]}
        logged = self._open[trial_id] = _Logged(trial_id, config, owner)
        if self._folder is not None:
            logged.local_path = str(self._folder / trial_id)
            logged.init_local_path()
        self._inner.log_trial_start(logged)

    def _catch_up(self, logged: _Logged) -> None:
        """Log what the record has beyond the last epoch that was logged."""
        for row in self._results.epochs(logged.trial_id):
            step = row["step_epoch"]
            if step > logged.last:
                figures = {k: v for k, v in row.items() if isinstance(v, int | float)}
                # All of Ray's loggers take this for the step.
                self._inner.log_trial_result(step, logged, figures | {"training_iteration": step})
                logged.last = step

    def _end(self, logged: _Logged, *, failed: bool) -> None:
        self._catch_up(logged)
        self._inner.log_trial_end(logged, failed=failed)
        del self._open[logged.trial_id]

    def _end_all(self, trial: Any, *, failed: bool) -> None:
        for logged in list(self._open.values()):
            if logged.owner == trial.trial_id:
                self._end(logged, failed=failed)
