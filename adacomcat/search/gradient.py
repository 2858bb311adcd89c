"""Gradient search: a pass that trains the architecture parameters, then proposes a plan."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adacomcat.budget import Budget
from adacomcat.checks import NonFiniteLoss, require
from adacomcat.config import SearchConfig
from adacomcat.methods.base import Method, Searchable
from adacomcat.parallel import from_first_worker, rank, sum_over_workers_
from adacomcat.plan import Plan
from adacomcat.precision import autocast
from adacomcat.search.anneal import LearningRate, temperature
from adacomcat.search.penalty import penalized
from adacomcat.search.strategy import SearchReport, Strategy
from adacomcat.seeds import generator, seed_everything


class Gradient(Strategy):
    """Trains a method's architecture parameters, across all searches of a trial.

    Parameters and optimizer carry on from search to search, as in the reference. The model's
    weights are frozen and the model is in evaluation mode, unless `search.train_mode` is set.
    Where there are no architecture parameters there is no optimizer and no step.
    """

    name: ClassVar[str] = "gradient"
    uses_labels: ClassVar[bool] = True
    method: Searchable

    def __init__(
        self,
        method: Method,
        config: SearchConfig,
        budget: Budget,
        *,
        epochs: int,
        seed: int,
        due_epochs: Sequence[int] | None = None,
    ) -> None:
        super().__init__(method, config, budget, epochs=epochs, seed=seed, due_epochs=due_epochs)
        self.rate = LearningRate(config, self.due_epochs)
        parameters = self.method.architecture_parameters()
        self.optimizer: torch.optim.Optimizer | None = None
        if parameters:
            self.optimizer = torch.optim.AdamW(
                parameters, lr=config.lr, weight_decay=config.weight_decay
            )

    def check_method(self) -> None:
        searchable = isinstance(self.method, Searchable)
        allowed = f"uniform with method.name {self.method.name!r}, which has no supernet"
        require(searchable, "search.strategy", self.name, allowed)

    def prepare_(self, images: Iterable[Tensor]) -> None:
        """Make the model searchable, after a look at images where the method wants one."""
        super().prepare_(images)
        self.method.prepare_()

    def search(
        self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, steps: int | None = None
    ) -> SearchReport:
        """Run one search on a searchable model.

        With `search.stable_steps` n it ends after the first step whose plan is that of each of the
        n steps before; every step's plan is then read off the device.

        Args:
            batches: this worker's share of each step: images (B, C, H, W) and labels (B,).
            epoch: of the search phase, for temperature, noise and learning rate.
            steps: how many batches there are; only `search.min_lr` has to know.

        Raises:
            NonFiniteLoss: names the step.
            ValueError: no plan meets the budget.
        """
        if self.optimizer is None:
            return self._untrained(epoch)
        model = self.method.model
        tau = temperature(self.config, epoch, self.searches, self.epochs)
        # The same on every worker: all must draw one mixture.
        noise = generator(self.seed, "search", epoch) if self.config.noise else None
        training = model.training
        model.train(self.config.train_mode)
        if self.config.train_mode:
            seed_everything(self.seed, "search dropout", epoch, rank())
        assert steps is not None or self.config.min_lr is None, "min_lr without a count of steps"
        totals: list[Tensor] = []
        expected = torch.zeros(())
        plans: list[Plan] = []
        for images, labels in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate.at(epoch, self.searches, len(totals), steps or 1)
            sums, expected = self._step(self.optimizer, images, labels, tau, noise)
            totals.append(sums)
            if self.config.stable_steps is not None and self._stands_still(totals, plans):
                break
        model.train(training)
        # Read once: a value taken off the device at each step would stall it.
        loss, correct, count = _finite(totals).sum(0).tolist()
        proposal = self.method.propose(self.budget, self.config.decision)
        report = SearchReport(
            self.searches,
            epoch,
            proposal,
            temperature=tau,
            loss=loss / count,
            accuracy=correct / count,
            expected_cost=float(expected),
            images=int(count),
            steps=len(totals),
        )
        self.searches += 1
        return report

    def state_dict(self) -> dict[str, Any]:
        optimizer = None if self.optimizer is None else self.optimizer.state_dict()
        return {**super().state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def _untrained(self, epoch: int) -> SearchReport:
        """A search without architecture parameters: the plan is there already."""
        proposal = self.method.propose(self.budget, self.config.decision)
        self.searches += 1
        return SearchReport(self.searches - 1, epoch, proposal)

    def _stands_still(self, totals: list[Tensor], plans: list[Plan]) -> bool:
        """Whether the plan has not changed for `stable_steps` steps.

        Args:
            totals: what `_step` gave so far.
            plans: since the plan last changed, one a step; this step's is added.
        """
        # First: no plan can be read off logits that are not finite.
        _finite(totals, first=len(totals) - 1)
        plan = self.method.propose(self.budget, self.config.decision).plan
        if plans and plan != plans[-1]:
            plans.clear()
        plans.append(plan)
        assert self.config.stable_steps is not None
        # A worker that went on alone would wait for the others for ever.
        return from_first_worker(len(plans) > self.config.stable_steps)

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        tau: float,
        noise: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """One step; returns (loss, correct, images) summed over workers (3,), and the cost ()."""
        self.method.sample_(tau, noise)
        with autocast(self.config.bf16, images.device):
            logits = self.method.model(images)
        entropy = F.cross_entropy(logits.float(), labels)
        expected = self.method.expected_cost(self.budget.unit)
        loss = penalized(entropy, expected, self.budget, self.config)
        loss = loss + self.method.auxiliary_loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        correct = (logits.argmax(-1) == labels).sum()
        count = loss.new_tensor(len(labels), dtype=torch.float64)
        sums = torch.stack([loss.detach() * count, correct.double(), count])
        sum_over_workers_(sums)
        for parameter in self.method.architecture_parameters():
            if parameter.grad is not None:
                # Each worker's gradient counts by its share of the images.
                sum_over_workers_(parameter.grad.mul_((count / sums[2]).to(parameter.grad)))
        optimizer.step()
        return sums, expected.detach()


def _finite(totals: list[Tensor], first: int = 0) -> Tensor:
    """The sums of the steps from `first` on, (steps, 3), on the CPU.

    Raises:
        NonFiniteLoss: names the step.
    """
    sums = torch.stack(totals[first:]).cpu()
    bad = (~sums[:, 0].isfinite()).nonzero()
    if len(bad):
        step = int(bad[0, 0])
        raise NonFiniteLoss(f"search loss {sums[step, 0].item()} at step {first + step}")
    return sums
