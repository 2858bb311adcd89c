"""Searches without training: the plan of the least estimated loss within the budget."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from adacomcat.budget import Budget, project
from adacomcat.checks import require
from adacomcat.config import SearchConfig
from adacomcat.methods.base import (
    Method,
    Option,
    Proposal,
    SupportsCalibration,
    SupportsOptionLosses,
)
from adacomcat.parallel import from_first_worker
from adacomcat.plan import Plan
from adacomcat.search.strategy import SearchReport, Strategy

SCALE = 1e3
"""The largest loss is scaled to this: the knapsack compares values up to rounding errors."""
MEASURED_IMAGES = 16
"""Images on which `measured` measures errors."""


class EstimatedLosses(Strategy):
    """Base class: calibrates a method on images, without labels, and asks it for losses."""

    measured_images: ClassVar[int] = 0
    """Images, of a worker, on which errors are measured."""

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
        allowed = f"uniform with method.name {method.name!r}, which estimates no losses"
        require(isinstance(method, SupportsOptionLosses), "search.strategy", self.name, allowed)
        assert isinstance(method, SupportsOptionLosses)
        method.check_estimate(self.name)
        self._losses: Mapping[str, Sequence[tuple[Option, float]]] = {}
        self._images = 0

    def prepare_(self, images: Iterable[Tensor]) -> None:
        """Calibrate the method, and keep some of the images where errors are to be measured."""
        self._images = 0
        kept: list[Tensor] = []

        def seen() -> Iterator[Tensor]:
            for batch in images:
                missing = self.measured_images - sum(len(each) for each in kept)
                if missing > 0:
                    kept.append(batch[:missing])
                self._images += len(batch)
                yield batch

        if isinstance(self.method, SupportsCalibration):
            self.method.calibrate(seen())
        assert isinstance(self.method, SupportsOptionLosses)
        on = torch.cat(kept) if kept else None
        self._losses = self.method.losses_of_options(self.budget.unit, self.name, on)

    def search(
        self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, steps: int | None = None
    ) -> SearchReport:
        """Propose the plan of the least summed loss; `batches` are not looked at."""
        # The errors that `measured` sees differ between workers, as their images do.
        picks = from_first_worker(self._least_loss())
        chosen = {
            site: found[pick]
            for (site, found), pick in zip(self._losses.items(), picks, strict=True)
        }
        decisions = {site: option.decision for site, (option, _) in chosen.items()}
        plan = Plan(self.method.name, decisions)
        cost = self.method.plan_cost(plan, self.budget.unit)
        losses = {site: loss for site, (_, loss) in chosen.items()}
        self.searches += 1
        proposal = Proposal(plan, cost, losses=losses)
        return SearchReport(self.searches - 1, epoch, proposal, images=self._images)

    def _least_loss(self) -> list[int]:
        """Option of each site in the plan of the least summed loss within the budget."""
        options = self._losses.values()
        largest = max(max(loss for _, loss in found) for found in options)
        scale = SCALE / largest if largest > 0 else 1.0
        choices = [
            ([-loss * scale for _, loss in found], [int(option.cost or 0) for option, _ in found])
            for found in options
        ]
        return project(choices, self.budget.target, self.method.units[self.budget.unit])


class Sensitivity(EstimatedLosses):
    """Squared error of the model's output, from the spectra in metrics of gradients."""

    name: ClassVar[str] = "sensitivity"


class Measured(EstimatedLosses):
    """Sensitivity, corrected by the measured error of truncating each site alone."""

    name: ClassVar[str] = "measured"
    measured_images: ClassVar[int] = MEASURED_IMAGES


class Energy(EstimatedLosses):
    """Share of each site's own energy that is cut off (BALF, arXiv 2509.25136)."""

    name: ClassVar[str] = "energy"
    needs_images: ClassVar[bool] = False


class EffectiveRank(EstimatedLosses):
    """Ranks in proportion to the root of a site's effective rank by its cost (D-Rank)."""

    name: ClassVar[str] = "effective_rank"
    needs_images: ClassVar[bool] = False
