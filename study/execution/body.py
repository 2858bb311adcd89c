"""Training of one trial in its worker, from the cached dense model of the workload."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from adacomcat.checks import require
from adacomcat.config import (
    TrialConfig,
)
from adacomcat.data import Splits, build_splits
from adacomcat.io.directory import check_saveable, save_result
from adacomcat.io.run import Run
from adacomcat.io.trace import TraceWriter
from adacomcat.schedule import Never
from adacomcat.training import Reporter, Trial, dense_model
from adacomcat.training.checkpoint import CheckpointError, load_state
from adacomcat.training.dense import build_dense
from adacomcat.training.rows import Row
from study.spec.expand import RESOLVED


@dataclass(frozen=True)
class Outcome:
    """Result of a trial beside its trace."""

    summary: dict[str, Any]
    split_hashes: Mapping[str, str] = field(default_factory=dict)
    leakage: tuple[str, ...] = ()
    """See `adacomcat.data.Splits.leakage`."""


class Body(Protocol):
    """Function that runs a trial; called on each of its workers.

    It runs until `until` epochs, counted over both phases, are done (None: to the end) and goes on
    from `directory` when called again. It returns None where there is more to do.
    """

    def __call__(
        self,
        config: TrialConfig,
        *,
        directory: Path,
        reporter: Reporter,
        cache: Path,
        device: str,
        until: int | None,
    ) -> Outcome | None: ...


def train_trial(
    config: TrialConfig,
    *,
    directory: Path,
    reporter: Reporter,
    cache: Path,
    device: str,
    until: int | None,
) -> Outcome | None:
    """Train the trial on its workload's dense model, and leave its finished model."""
    dense, splits = _prepared(_workload_key(config), cache, device)
    trial = Trial(
        config, dense=dense, splits=splits, directory=directory, reporter=reporter, device=device
    )
    trial.resume()
    summary = trial.run(until)
    if summary is None:
        return None
    save_result(trial, directory)
    return Outcome(summary, dict(splits.hashes), splits.leakage)


def restore_trace(run: Run) -> None:
    """Write the trace of an ended trial again, with the rows that its checkpoint holds.

    Raises:
        ValueError: the checkpoint is damaged or gone, or has no more rows.
    """
    missing, again = run.missing_rows(), f"delete {run.path} to train the trial again"
    try:
        state = load_state(run.path / "checkpoint")
    except CheckpointError as error:
        raise ValueError(
            f"{run.path}: {missing}, and {error.path} does not read; {again}"
        ) from error
    with closing(TraceWriter(run.path)) as writer:
        writer.begin(state["rows"], state["search_rows"])
    missing = run.missing_rows()
    require(not missing, str(run.path), missing, f"all of them; {again}")


def prepare_dense(
    config: TrialConfig,
    cache: Path,
    device: str,
    progress: Callable[[dict[str, Any]], None] | None,
) -> None:
    """Train the dense model of a workload in this process, unless the cache has it."""
    # The GPUs may be those of other machines of the cluster.
    here = device if torch.cuda.is_available() else "cpu"
    dense_model(config, build_splits(config.data), cache, device=here, progress=progress)
    # The trials get the GPU that this process has used.
    torch.cuda.empty_cache()


def untrained(config: TrialConfig, device: str = "cpu") -> Trial:
    """A trial on a model without training, that writes and reports nothing.

    A schedule that waits for its resolver is taken as `never`.
    """
    dense, splits = _untrained(_workload_key(config))
    values = config.to_json()
    if config.schedule.get("kind") == RESOLVED:
        values["schedule"] = Never().config()
    return Trial(
        TrialConfig.from_json(values),
        dense=dense,
        splits=splits,
        directory=Path(),
        reporter=_Silent(),
        device=device,
    )


class _Silent:
    def begin(self, epochs: Sequence[Row], searches: Sequence[Row]) -> None: ...

    def epoch(self, row: Row) -> None: ...

    def search(self, row: Row) -> None: ...


def _workload_key(config: TrialConfig) -> str:
    values = config.to_json()
    return json.dumps({name: values[name] for name in ("data", "model", "dense", "runtime")})


def _workload(key: str) -> TrialConfig:
    return TrialConfig.from_json(json.loads(key))


# A worker runs many trials of one workload, one after the other: one entry is all it needs.
@lru_cache(maxsize=1)
def _prepared(key: str, cache: Path, device: str) -> tuple[nn.Module, Splits]:
    config = _workload(key)
    splits = build_splits(config.data)
    return dense_model(config, splits, cache, device=device), splits


@lru_cache(maxsize=1)
def _untrained(key: str) -> tuple[nn.Module, Splits]:
    config = _workload(key)
    splits = build_splits(config.data)
    model = build_dense(config, splits)
    check_saveable(model)
    return model, splits
