"""Uniform plans: the method's default plan as a search."""

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor

from adacomcat.methods.base import Proposal
from adacomcat.search.strategy import SearchReport, Strategy


class Uniform(Strategy):
    """Proposes the default plan at every search: the control of every other strategy."""

    name: ClassVar[str] = "uniform"
    needs_images: ClassVar[bool] = False

    def search(
        self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, steps: int | None = None
    ) -> SearchReport:
        plan = self.method.default_plan(self.budget)
        cost = self.method.plan_cost(plan, self.budget.unit)
        self.searches += 1
        return SearchReport(self.searches - 1, epoch, Proposal(plan, cost))
