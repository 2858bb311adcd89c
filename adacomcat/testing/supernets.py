"""Conformance tests for the supernets of methods: preparing, sampling, searching, restoring."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.budget import Unit
from adacomcat.config import SearchConfig
from adacomcat.search.gradient import Gradient
from adacomcat.testing.cases import MethodCase, calibrate, perturb_, search_step


class SupernetConformance(MethodCase):
    """Rules of a `Searchable` during a search; part of `MethodConformance`."""

    def test_restore_undoes_prepare(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], start: str
    ) -> None:
        method = self.method(build, config, start)
        model = method.model
        next(iter(model.parameters())).requires_grad_(False)
        modules, plan = dict(model.named_modules()), method.plan
        parameters = {n: (id(p), p.requires_grad) for n, p in model.named_parameters()}
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        outputs = model(self.images)
        method.prepare_()
        # An epoch's worth of flipping between the modes happens while the modules are held aside.
        model.train()
        search_step(method, self.images)
        method.restore_()
        assert all(module.training for module in model.modules())
        model.eval()
        assert dict(model.named_modules()) == modules
        after = {n: (id(p), p.requires_grad) for n, p in model.named_parameters()}
        assert after == parameters
        assert all(torch.equal(value, weights[n]) for n, value in model.state_dict().items())
        assert torch.equal(model(self.images), outputs)
        assert method.plan == plan

    def test_only_the_architecture_learns(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], start: str
    ) -> None:
        method = self.method(build, config, start)
        method.prepare_()
        search_step(method, self.images)
        assert [n for n, p in method.model.named_parameters() if p.requires_grad] == []
        assert [n for n, p in method.model.named_parameters() if p.grad is not None] == []
        for parameter in method.architecture_parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.isfinite().all())
            assert bool(parameter.grad.any())

    def test_a_draw_follows_its_generator(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.method(build, config)
        method.prepare_()

        def drawn(seed: int | None) -> Tensor:
            source = None if seed is None else torch.Generator().manual_seed(seed)
            method.sample_(1.0, source)
            return method.model(self.images).detach()

        assert torch.equal(drawn(None), drawn(None))
        assert torch.equal(drawn(1), drawn(1))
        if method.architecture_parameters() and self.draws:
            assert not torch.equal(drawn(1), drawn(2))

    def test_expected_cost_is_differentiable_and_bounded(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], unit: Unit
    ) -> None:
        method = self.method(build, config)
        method.prepare_()
        dense, _ = method.dense_cost(unit)
        for seed in range(5):
            perturb_(method.architecture_parameters(), seed, 3.0)
            method.sample_(0.7, torch.Generator().manual_seed(seed))
            expected = method.expected_cost(unit)
            assert expected.shape == ()
            slack = 1e-6 * dense
            assert method.smallest_cost(unit) - slack <= expected.item() <= dense + slack
            parameters = method.architecture_parameters()
            for gradient in torch.autograd.grad(expected, parameters) if parameters else ():
                assert bool(gradient.isfinite().all())
                assert bool(gradient.any())

    def test_projected_plan_meets_the_budget(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], unit: Unit
    ) -> None:
        method = self.method(build, config)
        budget = self.budget(method, unit)
        for seed in range(5):
            perturb_(method.architecture_parameters(), seed, 3.0)
            method.prepare_()
            proposal = method.propose(budget, "projected")
            assert proposal.cost <= budget.target
            assert proposal.cost == method.plan_cost(proposal.plan, unit)
            assert budget.attained(proposal.cost) >= self.reduction - 1e-9
            method.restore_()

    def test_searching_goes_on_from_what_was_adopted(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        source = self.method(build, config, "committed")
        assert source.plan is not None
        method = self.bound(build, config)
        method.adopt_(source.model, source.plan)
        twin = self.bound(build, config)
        twin.load_state_dict(method.state_dict())
        twin.model.load_state_dict(method.model.state_dict())
        twin.model.eval()
        assert twin.plan == method.plan
        searched = []
        for each in (method, twin):
            calibrate(each, self.images)
            each.prepare_()
            search_step(each, self.images)
            searched.append(each.model(self.images).detach())
            each.commit_(self.plan(each))
            assert bool(each.model(self.images).isfinite().all())
        assert torch.equal(*searched)
        assert torch.equal(method.model(self.images), twin.model(self.images))

    def test_unreachable_budget_is_refused(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], unit: Unit
    ) -> None:
        method = self.method(build, config)
        _, fixed = method.dense_cost(unit)
        smallest = method.smallest_cost(unit) + fixed
        exact = self.budget(method, unit, smallest)
        assert method.propose(exact, "projected").cost == method.smallest_cost(unit)
        try:
            self.budget(method, unit, smallest - 1)
        except ValueError as error:
            assert "budget.absolute" in str(error)
            assert f"{smallest:,.0f} {method.units[unit]}" in str(error)
        else:
            raise AssertionError("a budget below the smallest cost was taken")

    def test_a_search_trains_what_there_is(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.bound(build, config)
        budget = self.budget(method, self.units[0])
        strategy = Gradient(method, SearchConfig(lr=0.1), budget, epochs=4, seed=0)
        labels = torch.arange(len(self.images)) % method.model(self.images).shape[-1]
        before = [parameter.detach().clone() for parameter in method.architecture_parameters()]
        strategy.prepare_([self.images])
        report = strategy.search([(self.images, labels)] * 2, 1, 2)
        method.commit_(report.proposal.plan)
        assert report.proposal.cost <= budget.target
        if before:
            assert (report.steps, report.images) == (2, 2 * len(self.images))
            assert any(
                not torch.equal(old, new)
                for old, new in zip(before, method.architecture_parameters(), strict=True)
            )
        else:
            # No optimizer takes an empty list, and no step could change anything.
            assert strategy.optimizer is None
            assert (report.steps, report.images, report.loss) == (0, 0, None)
