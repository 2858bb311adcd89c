"""Conformance tests for compression methods.

A method is tried on a tiny model: dense, searchable, and committed to a plan within a budget.
"""

import copy
import inspect
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adacomcat.budget import Budget, Unit
from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.cost import count_macs
from adacomcat.methods.base import (
    Method,
    Searchable,
    SupportsCalibration,
    SupportsMeasuredTimes,
)
from adacomcat.methods.registry import build_method
from adacomcat.plan import Decision, Plan
from adacomcat.search.gradient import Gradient
from adacomcat.testing.models import tiny_images, tiny_vit
from adacomcat.training.checkpoint import load_state, save_state


class MethodConformance:
    """Inherit as `class TestMine(MethodConformance)` and list configurations to try.

    Needs pytest, which makes one test of each rule, configuration and model.
    """

    configs: ClassVar[Sequence[Mapping[str, Any]]]
    """Configuration for `build_method`."""
    models: ClassVar[Mapping[str, Callable[[], nn.Module]]] = {"vit": tiny_vit}
    """Name -> a function that builds a dense model in evaluation mode, the same at each call."""
    images: ClassVar[Tensor] = tiny_images()
    reduction: ClassVar[float] = 0.4
    """A reduction in each unit that every configuration reaches on every model."""
    units: ClassVar[Sequence[Unit]] = ("params", "macs")
    wrong: ClassVar[Sequence[Decision]] = (0, -3, 2.5, "4", True)
    """Decisions that the first site cannot have."""
    draws: ClassVar[bool] = True
    """Whether a search draws at random what its next forward uses."""
    latency: ClassVar[Mapping[str, Any]] = {}
    """A table of times for all models and configurations, where `latency` is among the units."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrize each rule by the configurations, models and units that it takes."""
        if "config" in metafunc.fixturenames:
            metafunc.parametrize("config", self.configs, ids=str)
        if "build" in metafunc.fixturenames:
            metafunc.parametrize("build", self.models.values(), ids=self.models.keys())
        if "unit" in metafunc.fixturenames:
            metafunc.parametrize("unit", self.units)
        if "start" in metafunc.fixturenames:
            metafunc.parametrize("start", ("dense", "committed"))

    def bound(self, build: Callable[[], nn.Module], config: Mapping[str, Any]) -> Searchable:
        """A method on a fresh dense model."""
        method = build_method(build(), config)
        assert isinstance(method, Searchable)
        return method

    def method(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], start: str = "dense"
    ) -> Searchable:
        """A method on a fresh model, dense or committed to a plan of random logits."""
        method = self.bound(build, config)
        _calibrate(method, self.images)
        if isinstance(method, SupportsMeasuredTimes) and "latency" in self.units:
            method.use_times_(self.latency)
        if start == "committed":
            _perturb(method.architecture_parameters(), 0, 2.0)
            method.commit_(self.plan(method))
        return method

    def plan(self, method: Searchable, unit: Unit | None = None) -> Plan:
        """The plan that the architecture parameters propose, in the first of the units."""
        return method.propose(self.budget(method, unit or self.units[0]), "projected").plan

    def budget(self, method: Method, unit: Unit, absolute: float | None = None) -> Budget:
        """The budget at a total cost, or at the class's reduction."""
        reduction = self.reduction if absolute is None else None
        return method.budget(
            BudgetConfig(unit=unit, reduction=reduction, absolute=absolute, latency=self.latency)
        )

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
        _search_step(method, self.images)
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
        _search_step(method, self.images)
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
            _perturb(method.architecture_parameters(), seed, 3.0)
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
            _perturb(method.architecture_parameters(), seed, 3.0)
            method.prepare_()
            proposal = method.propose(budget, "projected")
            assert proposal.cost <= budget.target
            assert proposal.cost == method.plan_cost(proposal.plan, unit)
            assert budget.attained(proposal.cost) >= self.reduction - 1e-9
            method.restore_()

    def test_default_plan_meets_the_budget(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], unit: Unit
    ) -> None:
        method = self.method(build, config)
        budget = self.budget(method, unit)
        plan = method.default_plan(budget)
        assert method.plan_cost(plan, unit) <= budget.target
        method.commit_(plan)
        assert bool(method.model(self.images).isfinite().all())

    def test_macs_are_what_the_committed_model_does(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.method(build, config)
        shape = tuple(self.images.shape[1:])
        searched, fixed = method.dense_cost("macs")
        assert count_macs(method.model, shape) == searched + fixed  # type: ignore[arg-type]
        plan = self.plan(method, "macs")
        method.commit_(plan)
        counted = count_macs(method.model, shape)  # type: ignore[arg-type]
        assert counted == method.plan_cost(plan, "macs") + fixed

    def test_commit_leaves_plain_modules(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.method(build, config)
        model, signature = method.model, inspect.signature(method.model.forward)
        kind = type(model)
        method.prepare_()
        method.commit_(self.plan(method))
        assert type(model) is kind
        assert inspect.signature(model.forward) == signature
        for name, module in model.named_modules():
            assert not module.training, name
            assert _hooks(module) == [], name
        assert all(p.requires_grad for p in model.parameters())
        outputs = model(self.images)
        twins = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
        assert all(torch.equal(twin(self.images), outputs) for twin in twins)

    def test_plan_in_force_changes_nothing(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.method(build, config, "committed")
        assert method.plan is not None
        before = dict(method.model.named_parameters())
        outputs = method.model(self.images)
        for searchable in (False, True):
            if searchable:
                method.prepare_()
            assert method.commit_(method.plan).moves == ()
            after = dict(method.model.named_parameters())
            assert list(after) == list(before)
            assert all(after[name] is parameter for name, parameter in before.items())
            assert all(parameter.requires_grad for parameter in after.values())
            assert torch.equal(method.model(self.images), outputs)

    def test_moves_name_what_was_replaced(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.method(build, config)
        before = {id(p): p for p in method.model.parameters()}
        changes = method.commit_(self.plan(method))
        after = {id(p): p for p in method.model.parameters()}
        old = [id(p) for move in changes.moves for p in move.old.values()]
        new = [id(p) for move in changes.moves for p in move.new.values()]
        assert sorted(old) == sorted(before.keys() - after.keys())
        assert sorted(new) == sorted(after.keys() - before.keys())
        for move in changes.moves:
            for power in (1, 2):
                state = {name: torch.ones_like(p) for name, p in move.old.items()}
                for name, moment in move.carry(state, power).items():
                    assert moment.shape == move.new[name].shape
                    assert power == 1 or bool((moment >= 0).all())

    def test_adopting_copies_a_committed_model(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        source = self.method(build, config, "committed")
        assert source.plan is not None
        _perturb(list(source.model.parameters()), 1, 0.1)
        weights = {name: value.clone() for name, value in source.model.state_dict().items()}
        method = self.bound(build, config)
        method.adopt_(source.model, source.plan)
        assert method.plan == source.plan
        assert all(not module.training for module in method.model.modules())
        assert all(p.requires_grad for p in method.model.parameters())
        assert torch.equal(method.model(self.images), source.model(self.images))
        _perturb(list(method.model.parameters()), 2, 0.1)
        after = source.model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in weights.items())

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
            _calibrate(each, self.images)
            each.prepare_()
            _search_step(each, self.images)
            searched.append(each.model(self.images).detach())
            each.commit_(self.plan(each))
            assert bool(each.model(self.images).isfinite().all())
        assert torch.equal(*searched)
        assert torch.equal(method.model(self.images), twin.model(self.images))

    def test_what_cannot_be_adopted_is_refused(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        source = self.method(build, config, "committed")
        assert source.plan is not None
        changed = next(site for site, d in source.plan.decisions.items() if d is not None)
        other = dict(source.plan.decisions) | {changed: None}
        method = self.bound(build, config)
        outputs = method.model(self.images)
        for model, plan in (
            (source.model, Plan("another", dict(source.plan.decisions))),
            (source.model, Plan(method.name, other)),
            (build(), source.plan),
        ):
            try:
                method.adopt_(model, plan)
            except ValueError as error:
                assert "plan." in str(error)
            else:
                raise AssertionError(f"{plan} was taken")
        assert method.plan is None
        assert torch.equal(method.model(self.images), outputs)

    def test_state_round_trip(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], start: str, tmp_path: Path
    ) -> None:
        method = self.method(build, config, start)
        _perturb(method.architecture_parameters(), 0, 1.0)
        _perturb(list(method.model.parameters()), 1, 0.1)
        state = {"method": method.state_dict(), "model": method.model.state_dict()}
        save_state(tmp_path, state)
        read = load_state(tmp_path)
        again = self.bound(build, config)
        again.load_state_dict(read["method"])
        again.model.load_state_dict(read["model"])
        again.model.eval()
        assert again.plan == method.plan
        assert torch.equal(again.model(self.images), method.model(self.images))
        searched = []
        for each in (method, again):
            _calibrate(each, self.images)
            each.prepare_()
            each.sample_(1.0, None)
            searched.append(each.model(self.images).detach())
        assert torch.equal(*searched)
        assert self.plan(again) == self.plan(method)

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

    def test_sites_say_what_may_be_decided(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], unit: Unit
    ) -> None:
        method = self.method(build, config)
        options = method.options(unit)
        assert list(options) == [site.name for site in method.sites]
        assert list(self.plan(method, unit).decisions) == list(options)
        for site in method.sites:
            decisions = [option.decision for option in options[site.name]]
            assert decisions
            for a in decisions:
                for b in decisions:
                    if a is not None and b is not None:
                        distance = site.distance(a, b)
                        assert distance == site.distance(b, a)
                        assert (distance == 0) == (a == b) and 0 <= distance <= 1
        # The last option of each: a plan that a commit takes, and whose cost is the sum of theirs.
        last = {name: found[-1] for name, found in options.items()}
        plan = Plan(method.name, {name: option.decision for name, option in last.items()})
        method.check(plan)
        costs = [option.cost for option in last.values()]
        known = [cost for cost in costs if cost is not None]
        assert len(known) in (0, len(costs))
        if known:
            assert sum(known) == method.plan_cost(plan, unit)

    def test_a_decision_that_no_site_can_have_is_refused(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.method(build, config)
        decisions = dict(self.plan(method).decisions)
        first = next(iter(decisions))
        for wrong in self.wrong:
            try:
                method.commit_(Plan(method.name, decisions | {first: wrong}))
            except ValueError as error:
                assert str(error).startswith(f"plan.decisions.{first}: got {wrong!r}")
            else:
                raise AssertionError(f"{first}: {wrong!r} was taken")
        assert method.plan is None

    def test_foreign_plan_is_refused(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any]
    ) -> None:
        method = self.method(build, config)
        outputs = method.model(self.images)
        decisions = dict(self.plan(method).decisions)
        for plan in (
            Plan("another", decisions),
            Plan(method.name, decisions | {"no.such.site": 4}),
            Plan(method.name, dict(list(decisions.items())[1:])),
        ):
            try:
                method.commit_(plan)
            except ValueError as error:
                assert "plan." in str(error)
            else:
                raise AssertionError(f"{plan} was taken")
        assert torch.equal(method.model(self.images), outputs)


def _calibrate(method: Method, images: Tensor) -> None:
    if isinstance(method, SupportsCalibration):
        method.calibrate([images])


def _search_step(method: Searchable, images: Tensor) -> None:
    """One backward pass of the loss that a search minimizes, in evaluation mode."""
    training = method.model.training
    method.model.eval()
    method.sample_(1.0, torch.Generator().manual_seed(0))
    outputs = method.model(images)
    labels = torch.arange(len(images)) % outputs.shape[-1]
    loss = F.cross_entropy(outputs, labels) + method.auxiliary_loss()
    if method.architecture_parameters():
        loss.backward()
    method.model.train(training)


@torch.no_grad()
def _perturb(parameters: Sequence[nn.Parameter], seed: int, size: float) -> None:
    source = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(size * torch.randn(parameter.shape, generator=source))


def _hooks(module: nn.Module) -> list[str]:
    """Names of the module's hook tables that are not empty."""
    return [name for name, table in vars(module).items() if "_hooks" in name and table]
