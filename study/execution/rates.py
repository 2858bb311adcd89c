"""How fast a trial runs on this machine: the engine, timed for a few steps.

It runs twice on an untrained model, on cuts of the data that are one batch and three batches long.
What the second run takes longer is the price of two batches; what is left is the price of an epoch,
or of a search, as such.
"""

import copy
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adacomcat.config import TrialConfig
from adacomcat.data import Split, Splits
from adacomcat.training import Trial, dense_model
from study.execution.body import untrained
from study.execution.cluster import Placement

CUTS = (1, 3)
"""How many batches, or steps, the two runs have."""
EVAL_IMAGES = 256
"""Of a batch of evaluation, at most."""


@dataclass(frozen=True)
class Line:
    """Seconds of something made of equal parts: `fixed` and so many for each part."""

    fixed: float
    each: float

    def at(self, parts: float) -> float:
        return self.fixed + self.each * parts


@dataclass(frozen=True)
class Rates:
    """How fast one trial runs, in seconds; the batches are those of one of its workers.

    Attributes:
        start: to build it.
        train: an epoch of the search phase, by its steps.
        finetune: an epoch of the finetune phase, by its steps.
        search: a search, by its steps.
        rebuild: calibration and conversion for a search, by the batches of the search split.
        evaluate: a pass of evaluation, by its images.
        rest: of an epoch: its checkpoint and its records.
    """

    start: float
    train: Line
    finetune: Line
    search: Line
    rebuild: Line
    evaluate: Line
    rest: float


class _Stopwatch:
    """A reporter that keeps the rows, and the seconds from each to the next."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._last = time.perf_counter()

    def epoch(self, row: dict[str, Any]) -> None:
        now = time.perf_counter()
        self.rows.append(row | {"since_s": now - self._last})
        self._last = now

    def search(self, row: dict[str, Any]) -> None: ...


def measure(config: TrialConfig, placement: Placement) -> tuple[Rates, Splits]:
    """Time the engine on this machine.

    Args:
        config: of the trial; its schedule does not matter.
        placement: device, threads, and the workers that share its batches.

    Returns:
        How fast it is, and the splits of its data.
    """
    with _threads(placement.threads):
        whole = untrained(config, placement.device)
        started = time.perf_counter()
        # Again: a worker, too, has its data and the dense model from the trial before.
        untrained(config, placement.device)
        start = time.perf_counter() - started
        share = _share(config, placement.workers)
        runs = [_observe(share, whole, cut, placement.device) for cut in CUTS]
    evaluated = [run["val_images"] for run in runs]
    rates = Rates(
        start=start,
        train=_line([run["train_steps"] for run in runs], [run["train_s"] for run in runs]),
        finetune=_line([run["tune_steps"] for run in runs], [run["tune_s"] for run in runs]),
        search=_line(list(CUTS), [run["search_s"] for run in runs]),
        rebuild=_line([run["search_batches"] for run in runs], [run["rebuild_s"] for run in runs]),
        evaluate=_line(evaluated, [run["eval_s"] for run in runs]),
        rest=runs[-1]["rest_s"],
    )
    return rates, whole.splits


def _observe(config: TrialConfig, whole: Trial, cut: int, device: str) -> dict[str, float]:
    """Run the engine on `cut` batches of each split; clocks of epochs that are warmed up."""
    splits = _cut_splits(whole.splits, config, cut)
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        short = dataclasses.replace(
            config,
            search=dataclasses.replace(config.search, steps=cut, images=None, stable_steps=None),
            # The first epoch, search and finetune epoch warm up, the others are read.
            schedule={"kind": "explicit", "epochs": [1, 2]},
            search_phase=dataclasses.replace(config.search_phase, epochs=3),
            finetune=dataclasses.replace(config.finetune, epochs=2),
        )
        dense = copy.deepcopy(whole.teacher).requires_grad_()
        Trial(
            short,
            dense=dense,
            splits=splits,
            directory=Path(folder),
            reporter=watch,
            device=device,
        ).run()
    searched, tuned = watch.rows[2], watch.rows[4]
    clocks = ("train_s", "search_s", "rebuild_s", "eval_s")
    return {
        **{name: searched[name] for name in clocks},
        "tune_s": tuned["train_s"],
        "rest_s": max(0.0, tuned["since_s"] - sum(tuned[name] for name in clocks)),
        "train_steps": len(splits.train) // short.search_phase.batch_size,
        "tune_steps": len(splits.train) // short.finetune.batch_size,
        "search_batches": len(splits.search) // short.search.batch_size,
        "val_images": len(splits.val),
    }


def measure_dense(config: TrialConfig, splits: Splits, placement: Placement) -> Line:
    """Time the training of the dense model, which is the driver's: an epoch, by its steps."""
    seconds, steps = [], []
    size = config.dense.recipe.batch_size
    short = dataclasses.replace(
        config,
        dense=dataclasses.replace(
            config.dense, recipe=dataclasses.replace(config.dense.recipe, epochs=2)
        ),
    )
    for count in CUTS:
        cut = dataclasses.replace(
            splits, train=_cut(splits.train, count * size), val=_cut(splits.val, 1)
        )
        seconds.append(_second_epoch_s(short, cut, placement.device))
        steps.append(len(cut.train) // size)
    return _line(steps, seconds)


def _second_epoch_s(config: TrialConfig, splits: Splits, device: str) -> float:
    ends: list[float] = []

    def note(row: dict[str, Any]) -> None:
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        dense_model(config, splits, Path(folder), device=device, progress=note)
    return ends[1] - ends[0]


def _line(parts: Sequence[float], seconds: Sequence[float]) -> Line:
    """Through two measurements; where noise has turned them over, all by the parts."""
    (few, many), (short, long) = parts, seconds
    each = (long - short) / (many - few) if many > few and long > short else long / many
    return Line(max(0.0, long - each * many), each)


def _share(config: TrialConfig, workers: int) -> TrialConfig:
    """The batches of one worker."""
    parts = {
        name: dataclasses.replace(
            getattr(config, name), batch_size=getattr(config, name).batch_size // workers
        )
        for name in ("search", "search_phase", "finetune")
    }
    return dataclasses.replace(config, **parts)


def _cut_splits(splits: Splits, config: TrialConfig, cut: int) -> Splits:
    step = max(config.search_phase.batch_size, config.finetune.batch_size)
    seen = max(1, min(EVAL_IMAGES, len(splits.val) // CUTS[-1]))
    return dataclasses.replace(
        splits,
        train=_cut(splits.train, cut * step),
        search=_cut(splits.search, cut * config.search.batch_size),
        val=_cut(splits.val, cut * seen),
        test=_cut(splits.test, 1),
    )


def _cut(split: Split, images: int) -> Split:
    kept = np.arange(min(images, len(split)))
    return dataclasses.replace(
        split,
        images=split.images.select(kept),
        labels=split.labels[: len(kept)],
        indices=split.indices[kept],
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch with the threads that a worker will have."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
