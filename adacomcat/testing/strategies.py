"""Conformance tests for search strategies."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.methods.registry import build_method
from adacomcat.schedule import build_schedule
from adacomcat.search.strategy import SearchReport, Strategy, find_strategy
from adacomcat.testing.models import tiny_images, tiny_vit
from adacomcat.training.rows import search_row

EPOCHS = 6


class StrategyConformance:
    """Inherit as `class TestMine(StrategyConformance)` and list methods to try it with.

    Needs pytest, which makes one test of each rule and method.
    """

    strategy: ClassVar[str]
    """Name of the strategy."""
    methods: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"name": "lowrank"},
        {"name": "diffrate"},
        {"name": "lowrank+diffrate"},
    )
    """Configuration for `build_method`."""
    build: ClassVar[Callable[[], nn.Module]] = staticmethod(lambda: tiny_vit(depth=4))
    """Builds a dense model in evaluation mode, the same at each call."""
    budget: ClassVar[BudgetConfig] = BudgetConfig(unit="macs", reduction=0.25)
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of `SearchConfig`, beside the strategy."""
    schedules: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"kind": "fixed"},
        {"kind": "once"},
        {"kind": "adaptive"},
        {"kind": "explicit", "epochs": [0, 3]},
    )

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrize each rule by the methods and schedules that it takes."""
        if "method" in metafunc.fixturenames:
            metafunc.parametrize("method", self.methods, ids=str)
        if "schedule" in metafunc.fixturenames:
            metafunc.parametrize("schedule", self.schedules, ids=str)

    def make(self, method: Mapping[str, Any], seed: int = 0) -> Strategy:
        """The strategy on a fresh dense model."""
        bound = build_method(type(self).build(), method)
        config = SearchConfig(strategy=self.strategy, **self.settings)
        return find_strategy(self.strategy)(
            bound, config, bound.budget(self.budget), epochs=EPOCHS, seed=seed
        )

    def run(self, strategy: Strategy, epoch: int) -> SearchReport:
        """One search, committed, as the engine does it; the images are those of the epoch."""
        batches, steps = [], 0
        if strategy.needs_images:
            steps = 3
            images = tiny_images(4 * steps, seed=epoch).chunk(steps)
            batches = [(chunk, torch.arange(4)) for chunk in images]
        strategy.prepare_(iter([images for images, _ in batches]))
        report = strategy.search(iter(batches), epoch, steps)
        strategy.method.commit_(report.proposal.plan)
        return report

    def test_it_is_found_by_its_name(self) -> None:
        assert find_strategy(self.strategy).name == self.strategy

    def test_plans_are_within_the_budget(self, method: Mapping[str, Any]) -> None:
        strategy = self.make(method)
        bound, budget = strategy.method, strategy.budget
        for epoch in (1, 2):
            report = self.run(strategy, epoch)
            proposal = report.proposal
            assert set(proposal.plan.decisions) == {site.name for site in bound.sites}
            assert proposal.cost == bound.plan_cost(proposal.plan, budget.unit) <= budget.target
            assert report.index == epoch - 1 and report.epoch == epoch
            assert strategy.searches == epoch
            assert bound.plan == proposal.plan
            assert all(parameter.requires_grad for parameter in bound.model.parameters())

    def test_its_report_makes_a_row(self, method: Mapping[str, Any]) -> None:
        strategy = self.make(method)
        row = search_row(self.run(strategy, 1), strategy.budget, None, [], 1.0)
        assert json.loads(json.dumps(row, allow_nan=False)) == row
        assert row["images"] > 0 or row["loss"] is None

    def test_it_runs_under_any_schedule(
        self, method: Mapping[str, Any], schedule: Mapping[str, Any]
    ) -> None:
        strategy, when = self.make(method), build_schedule(schedule)
        bound = strategy.method
        epochs = []
        for epoch in range(EPOCHS):
            if when.due(epoch):
                before = bound.plan
                plan = self.run(strategy, epoch).proposal.plan
                when.observe(epoch, None if before is None else bound.distance(plan, before))
                epochs.append(epoch)
        assert strategy.searches == len(epochs) > 0
        assert bool(bound.model(tiny_images()).isfinite().all())

    def test_equal_seeds_give_equal_plans(self, method: Mapping[str, Any]) -> None:
        one, other = self.make(method), self.make(method)
        for epoch in (1, 2):
            a, b = self.run(one, epoch), self.run(other, epoch)
            assert a.proposal.plan == b.proposal.plan and a.loss == b.loss

    def test_a_resume_goes_on_as_if_never_stopped(self, method: Mapping[str, Any]) -> None:
        straight, first, second = (self.make(method) for _ in range(3))
        self.run(straight, 1)
        self.run(first, 1)
        second.method.load_state_dict(first.method.state_dict())
        second.method.model.load_state_dict(first.method.model.state_dict())
        second.method.model.eval()
        second.load_state_dict(first.state_dict())
        a, b = self.run(straight, 2), self.run(second, 2)
        assert a.proposal.plan == b.proposal.plan
        assert (a.index, a.loss) == (b.index, b.loss)
