"""Searches without training: the plan of the least estimated loss within the budget."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from adacomcat.budget import Budget, project
from adacomcat.checks import require
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

OptionLosses = Mapping[str, Sequence[tuple[Option, float]]]
"""Site -> its options with their estimated losses."""
SCALE = 1e3
"""The largest loss is scaled to this: the knapsack compares values up to rounding errors."""
MEASURED_IMAGES = 16
"""Images on which `measured` measures errors."""


class EstimatedLosses(Strategy):
    """Base class: calibrates a method on images, without labels, and asks it for losses."""

    measured_images: ClassVar[int] = 0
    """Images, of a worker, on which errors are measured."""

    _images: int
    _losses: OptionLosses

    def check_method(self) -> None:
        known = isinstance(self.method, SupportsOptionLosses)
        allowed = f"uniform with method.name {self.method.name!r}, which estimates no losses"
        require(known, "search.strategy", self.name, allowed)
        assert isinstance(self.method, SupportsOptionLosses)
        self.method.check_estimate(self.name)

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
        plan, losses = least_loss(self.method, self._losses, self.budget)
        # The errors that `measured` sees differ between workers, as their images do.
        plan = from_first_worker(plan)
        cost = self.method.plan_cost(plan, self.budget.unit)
        self.searches += 1
        proposal = Proposal(plan, cost, losses=losses)
        return SearchReport(self.searches - 1, epoch, proposal, images=self._images)


def least_loss(
    method: Method, losses: OptionLosses, budget: Budget
) -> tuple[Plan, dict[str, float]]:
    """The plan of the least summed loss within a budget, and the loss of each site in it.

    Args:
        method: of the plan.
        losses: site -> its options with their losses; see `SupportsOptionLosses`.
        budget: in the unit of the options' costs.

    Raises:
        ValueError: no plan meets the budget; names the smallest reachable cost.
    """
    options = losses.values()
    largest = max(max(loss for _, loss in found) for found in options)
    scale = SCALE / largest if largest > 0 else 1.0
    choices = [
        ([-loss * scale for _, loss in found], [int(option.cost or 0) for option, _ in found])
        for found in options
    ]
    picks = project(choices, budget.target, method.units[budget.unit])
    chosen = {site: found[i] for (site, found), i in zip(losses.items(), picks, strict=True)}
    plan = Plan(method.name, {site: option.decision for site, (option, _) in chosen.items()})
    return plan, {site: loss for site, (_, loss) in chosen.items()}


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
