"""The engine of a trial: a search phase, then a finetune phase with the resulting plan.

An epoch is: search if the schedule says so, train unless the phase is frozen, evaluate, report,
save. Searching and training alike go through `adacomcat.methods.base`; nothing here knows
what a rank or a token is.
"""

import copy
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat import parallel
from adacomcat.checks import NonFiniteLoss, require
from adacomcat.config import PhaseConfig, TrialConfig
from adacomcat.config.trial import identity
from adacomcat.cost import count_macs, count_params
from adacomcat.data import Split, Splits, cycle
from adacomcat.methods.base import ParameterMap, SupportsCalibration, SupportsTrainingLoss
from adacomcat.methods.registry import build_method
from adacomcat.models.registry import input_shape
from adacomcat.plan import Plan
from adacomcat.schedule import build_schedule
from adacomcat.search.strategy import find_strategy
from adacomcat.seeds import seed_everything
from adacomcat.training.checkpoint import CHECKPOINT_FILE, check_same, load_state, save_state
from adacomcat.training.clock import Clock
from adacomcat.training.distill import align_weight
from adacomcat.training.epoch import evaluate, train_epoch
from adacomcat.training.loading import Loaders
from adacomcat.training.optim import set_learning_rate
from adacomcat.training.phase import Phase
from adacomcat.training.preflight import check_trial, due_epochs
from adacomcat.training.rows import Reporter, Row, epoch_line, epoch_row, search_row, summary_row

PHASES = ("search", "finetune")
CALIBRATION_IMAGES = 64
"""Images of a calibration where `search.images` does not say: more change little, and each costs a
forward and a backward."""
LOG = logging.getLogger("adacomcat")


class Trial:
    """One trial on one worker: everything that a resume needs, and the loop."""

    def __init__(
        self,
        config: TrialConfig,
        *,
        dense: nn.Module,
        splits: Splits,
        directory: Path,
        reporter: Reporter,
        device: str = "cpu",
    ) -> None:
        """
        Args:
            config: what determines the trial.
            dense: the workload's trained model; copied, not changed.
            splits: of the workload's data.
            directory: the trial's folder; its checkpoint lies in `checkpoint/`.
            reporter: takes the rows.
            device: of this worker.

        Raises:
            ValueError: a setting that the model, the data or the budget does not allow.
        """
        self.config, self.reporter = config, reporter
        self.checkpoint = directory / "checkpoint"
        self.device = torch.device(device)
        self.clock = Clock(self.device)
        self.model = copy.deepcopy(dense).to(self.device)
        self.teacher = copy.deepcopy(dense).to(self.device).requires_grad_(False)
        self.method = build_method(self.model, config.method)
        self.budget = self.method.budget(config.budget)
        self.schedule = build_schedule(config.schedule)
        self.strategy = find_strategy(config.search.strategy)(
            self.method,
            config.search,
            self.budget,
            epochs=config.search_phase.epochs,
            seed=config.seed,
            due_epochs=self._due_epochs(),
        )
        self.phase_name, self.epoch = PHASES[0], 0
        self.rows: list[Row] = []
        self.search_rows: list[Row] = []
        self.splits = splits
        self.loaders = Loaders(
            splits, config.data, config.runtime, seed=config.seed, device=self.device
        )
        check_trial(config, self.strategy, self.schedule, self.loaders)
        self._model_changed()

    def adopt_(self, model: nn.Module, plan: Plan) -> None:
        """Start from a committed model in place of the dense one, which stays the teacher.

        With `search_phase.epochs` 0 the trial is then a finetune phase alone. A checkpoint holds
        the adopted weights, so that a trial that has one is resumed and adopts nothing.

        Args:
            model: committed to `plan` by the same method; copied, not changed.
            plan: in force in it.

        Raises:
            ValueError: an epoch has run already, or the model or the plan does not fit.
        """
        require(not self.rows, "adopt_: epochs done", len(self.rows), "0, before the first epoch")
        self.method.adopt_(model, plan)
        self._model_changed()

    @property
    def result(self) -> nn.Module:
        """The model of the trial after the epochs that have run.

        Its weights are the averaged ones where the phase's recipe has an `ema_decay`.
        """
        return self.phase.result

    # The loop.

    def run(self, until: int | None = None) -> dict[str, Any] | None:
        """Run the remaining epochs of both phases.

        Args:
            until: pause when this many epochs, counted over both phases, are done; None: run to
                the end. A trial that was paused goes on when it is run again, or from its
                checkpoint, with the trace of one that never paused.

        Returns:
            The summary; None where the trial was paused.
        """
        started = time.perf_counter() - sum(row["wall_s"] for row in self.rows)
        self.reporter.begin(self.rows, self.search_rows)
        while not self._phase_is_over():
            if until is not None and self._step_epoch() >= until:
                return None
            self._run_epoch()
        with self.clock.span("eval"):
            test_acc, test_loss = self._evaluate(self.result, self.splits.test)
            dense_acc, _ = self._evaluate(self.teacher, self.splits.test)
        return self._summary(test_acc, test_loss, dense_acc, time.perf_counter() - started)

    def _run_epoch(self) -> None:
        started = time.perf_counter()
        try:
            found = self._decide()
            trained = {} if self.recipe.frozen else self._train()
        except NonFiniteLoss as error:
            raise NonFiniteLoss(self._where_it_broke(error)) from error
        with self.clock.span("eval"):
            val_acc, val_loss = self._evaluate(self.result, self.splits.val)
        row = epoch_row(
            phase=self.phase_name,
            epoch=self.epoch,
            step_epoch=self._step_epoch(),
            trained=trained,
            val_acc=val_acc,
            val_loss=val_loss,
            interval=self.schedule.interval,
            searches=self.strategy.searches,
            sites_changed=found,
            params=self.params,
            macs=self.macs,
            clocks=self.clock.lap(),
            unreadable=self.loaders.unreadable(),
            wall_s=time.perf_counter() - started,
        )
        if parallel.rank() == 0:
            LOG.info(epoch_line(row))
        self.rows.append(row)
        self.reporter.epoch(row)
        self.epoch += 1
        self.save()

    def _phase_is_over(self) -> bool:
        """Whether both phases are done; steps from the search phase into the finetune phase.

        What the search phase leaves is its result, the averaged weights where there are any.
        """
        if self.epoch < self.recipe.epochs:
            return False
        if self.phase_name == PHASES[1]:
            return True
        self.phase.finish_()
        if self.method.plan is None:
            self._default_commit()
        self.phase_name, self.epoch = PHASES[1], 0
        self._model_changed()
        return self.recipe.epochs == 0

    # One epoch's parts.

    def _decide(self) -> int | None:
        """Search if one is due; returns how many sites it changed, None where none ran.

        A schedule that never searches gets the method's default plan at epoch 1, where the others
        have their first search, so that `never` is compressed as long as they are.
        """
        if self.phase_name != PHASES[0]:
            return None
        if self.schedule.due(self.epoch):
            return self._search()
        if self.method.plan is None and self.epoch >= 1 and not self._due_epochs():
            with self.clock.span("rebuild"):
                self._model_changed(self._default_commit())
        return None

    def _search(self) -> int:
        images, batches, steps = self._search_data()
        before = self.method.plan
        started = time.perf_counter()
        with self.clock.span("rebuild"):
            self.strategy.prepare_(images)
        with self.clock.span("search"):
            report = self.strategy.search(self.clock.waiting(batches), self.epoch, steps)
        plan = report.proposal.plan
        digest = plan.digest()
        assert parallel.from_first_worker(digest) == digest, "workers found different plans"
        with self.clock.span("rebuild"):
            self._commit(plan)
        distance = None if before is None else self.method.distance(plan, before)
        changed = list(plan.decisions) if before is None else list(plan.changed(before))
        self.schedule.observe(self.epoch, distance)
        row = search_row(report, self.budget, distance, changed, time.perf_counter() - started)
        self.search_rows.append(row)
        self.reporter.search(row)
        return len(changed)

    def _search_data(self) -> tuple[Iterable[Tensor], Iterable[tuple[Tensor, Tensor]], int]:
        """Images to calibrate on, batches of this epoch's search, and how many of these."""
        config = self.config.search
        if not self.strategy.needs_images:
            return self._calibration_images(), (), 0
        loader = self.loaders.search(config.batch_size)
        steps = config.most_steps(len(loader))
        first = self.epoch * math.ceil(steps / len(loader))
        batches = cycle(loader, steps, first_epoch=first)
        return self._calibration_images(), batches, steps

    def _calibration_images(self) -> Iterator[Tensor]:
        """This worker's share of the images of a calibration, loaded if it looks at them."""
        config = self.config.search
        loader = self.loaders.search(config.batch_size)
        loader.set_epoch(self.epoch)
        left = math.ceil((config.images or CALIBRATION_IMAGES) / parallel.world())
        for images, _ in loader:
            yield images[:left]
            left -= len(images)
            if left <= 0:
                return

    def _commit(self, plan: Plan) -> None:
        self._model_changed(self.method.commit_(plan))

    def _default_commit(self) -> ParameterMap:
        """Commit to the plan that needs no search, truncated as after a search."""
        if isinstance(self.method, SupportsCalibration):
            self.method.calibrate(self._calibration_images())
        return self.method.commit_(self.method.default_plan(self.budget))

    def _train(self) -> dict[str, Any]:
        """Train for an epoch: loss, base_loss, images, lr, align_weight."""
        recipe = self.recipe
        weight = align_weight(recipe.distill, self.epoch, recipe.epochs)
        lr = set_learning_rate(self.phase.optimizer, recipe, self.epoch)
        with self.clock.span("train"):
            loader = self.loaders.train(recipe.batch_size)
            loader.set_epoch(self._step_epoch())
            seed_everything(self.config.seed, self.phase_name, self.epoch, parallel.rank())
            stats = train_epoch(
                self.phase,
                self.clock.waiting(loader),
                num_classes=self.splits.num_classes,
                align_weight=weight,
            )
        return {**vars(stats), "lr": lr, "align_weight": weight}

    def _evaluate(self, model: nn.Module, split: Split) -> tuple[float, float]:
        loader = self.loaders.whole(split, max(self.recipe.batch_size, 256))
        return evaluate(model, loader, self.recipe)

    # State.

    def resume(self) -> bool:
        """Continue from the checkpoint in the trial's folder; returns whether there is one.

        Raises:
            ValueError: the checkpoint is damaged, of another configuration or of other data.
        """
        there = (self.checkpoint / CHECKPOINT_FILE).is_file()
        if there:
            self.load_state_dict(load_state(self.checkpoint))
        return there

    def save(self) -> None:
        """Write the checkpoint; the old one stays whole until the new one is."""
        if parallel.rank() == 0:
            save_state(self.checkpoint, self.state_dict())
        parallel.wait_for_all()

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs; `adacomcat.seeds` makes random streams from seed and epoch."""
        return {
            "config": self.config.to_json(),
            "split_hashes": dict(self.splits.hashes),
            "phase": self.phase_name,
            "epoch": self.epoch,
            "model": dict(self.model.state_dict()),
            "method": self.method.state_dict(),
            "schedule": self.schedule.state_dict(),
            "strategy": self.strategy.state_dict(),
            **self.phase.state_dict(),
            "rows": self.rows,
            "search_rows": self.search_rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the same configuration and data.

        Raises:
            ValueError: the checkpoint is of another configuration or other data.
        """
        check_same("config", identity(state["config"]), self.config.identity())
        check_same("split_hashes", state["split_hashes"], dict(self.splits.hashes))
        self.phase_name, self.epoch = state["phase"], state["epoch"]
        self.method.load_state_dict(state["method"])
        self.model.load_state_dict(state["model"])
        self.schedule.load_state_dict(state["schedule"])
        self.strategy.load_state_dict(state["strategy"])
        self._model_changed()
        self.phase.load_state_dict(state)
        self.rows, self.search_rows = list(state["rows"]), list(state["search_rows"])

    # Small parts.

    @property
    def recipe(self) -> PhaseConfig:
        """Settings of the current phase."""
        return self.config.search_phase if self.phase_name == PHASES[0] else self.config.finetune

    def _model_changed(self, changes: ParameterMap | None = None) -> None:
        """Bring the training state and the costs in line with the model.

        Args:
            changes: of a commit within a phase, through which the training state is carried; None:
                the model or the recipe is another one, and the training state begins anew.
        """
        if changes is None:
            method = self.method
            own = method.training_loss if isinstance(method, SupportsTrainingLoss) else None
            self.phase = Phase(self.model, self.recipe, self.teacher, own)
        else:
            self.phase.after_commit(changes)
        self.params = count_params(self.model)
        self.macs = count_macs(self.model, input_shape(self.model))

    def _due_epochs(self) -> list[int]:
        return due_epochs(self.schedule, self.config.search_phase.epochs)

    def _where_it_broke(self, error: NonFiniteLoss) -> str:
        saved = (self.checkpoint / CHECKPOINT_FILE).is_file()
        last = f"last good checkpoint: {self.checkpoint}" if saved else "no checkpoint yet"
        return f"{self.phase_name} phase, epoch {self.epoch}: {error}; {last}"

    def _step_epoch(self) -> int:
        before = self.config.search_phase.epochs if self.phase_name == PHASES[1] else 0
        return before + self.epoch

    def _summary(
        self, test_acc: float, test_loss: float, dense_acc: float, wall_s: float
    ) -> dict[str, Any]:
        assert self.method.plan is not None
        return {
            "test_acc": test_acc,
            "test_loss": test_loss,
            **summary_row(self.rows, self.search_rows, self.method.plan, self.clock.lap()),
            "params": self.params,
            "macs": self.macs,
            "wall_s": wall_s,
            "dense_test_acc": dense_acc,
            "dense_params": count_params(self.teacher),
            "dense_macs": count_macs(self.teacher, input_shape(self.teacher)),
        }


def run_trial(
    config: TrialConfig,
    *,
    dense: nn.Module,
    splits: Splits,
    directory: Path,
    reporter: Reporter,
    device: str = "cpu",
) -> dict[str, Any]:
    """Run a trial, from its checkpoint where there is one, to its end and return its summary.

    See `Trial` for arguments and errors.
    """
    trial = Trial(
        config, dense=dense, splits=splits, directory=directory, reporter=reporter, device=device
    )
    trial.resume()
    summary = trial.run()
    assert summary is not None
    return summary
