"""Conformance tests for compression methods.

A method is tried on a tiny model: dense, searchable, and committed to a plan within a budget.
"""

import copy
import inspect
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adacomcat.budget import Unit
from adacomcat.cost import count_macs
from adacomcat.plan import Plan
from adacomcat.testing.cases import calibrate, perturb_
from adacomcat.testing.supernets import SupernetConformance
from adacomcat.training.checkpoint import load_state, save_state


class MethodConformance(SupernetConformance):
    """Inherit as `class TestMine(MethodConformance)` and list configurations to try.

    Needs pytest, which makes one test of each rule, configuration and model.
    """

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
        perturb_(list(source.model.parameters()), 1, 0.1)
        weights = {name: value.clone() for name, value in source.model.state_dict().items()}
        method = self.bound(build, config)
        method.adopt_(source.model, source.plan)
        assert method.plan == source.plan
        assert all(not module.training for module in method.model.modules())
        assert all(p.requires_grad for p in method.model.parameters())
        assert torch.equal(method.model(self.images), source.model(self.images))
        perturb_(list(method.model.parameters()), 2, 0.1)
        after = source.model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in weights.items())

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
        perturb_(method.architecture_parameters(), 0, 1.0)
        perturb_(list(method.model.parameters()), 1, 0.1)
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
            calibrate(each, self.images)
            each.prepare_()
            each.sample_(1.0, None)
            searched.append(each.model(self.images).detach())
        assert torch.equal(*searched)
        assert self.plan(again) == self.plan(method)

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


def _hooks(module: nn.Module) -> list[str]:
    """Names of the module's hook tables that are not empty."""
    return [name for name, table in vars(module).items() if "_hooks" in name and table]
