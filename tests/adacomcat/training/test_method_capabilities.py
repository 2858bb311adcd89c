"""What only some methods have reaches a trial: their own loss, no supernet, other strategies."""

from dataclasses import dataclass

import pytest
import torch

from adacomcat.config import SearchConfig
from adacomcat.methods.base import Method, Searchable
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.registry import register
from adacomcat.plan import Plan

WEIGHT = 1e-3


@register("penalized", method=f"{__name__}:Penalized")
@dataclass(frozen=True, kw_only=True)
class PenalizedConfig(LowRankConfig):
    pass


class Penalized(LowRank):
    """Ranks, and a term of its own in the training loss."""

    name = "penalized"

    def training_loss(self):
        self.norms = [p.square().sum() for p in self.model.parameters()]
        return WEIGHT * torch.stack(self.norms).sum()


@register("plain", method=f"{__name__}:Plain")
@dataclass(frozen=True, kw_only=True)
class PlainConfig(LowRankConfig):
    pass


class Plain(Method):
    """Ranks without a supernet: what `Method` asks for, and nothing else."""

    name = "plain"

    def __init__(self, model, config):
        inner = LowRank(model, config)
        self.inner, self.model = inner, inner.model
        self.sites, self.units = inner.sites, inner.units

    @property
    def plan(self):
        return None if self.inner.plan is None else self._own(self.inner.plan)

    def check(self, plan):
        self.inner.check(self._theirs(plan))

    def commit_(self, plan):
        return self.inner.commit_(self._theirs(plan))

    def check_adoptable(self, model, plan):
        self.inner.check_adoptable(model, self._theirs(plan))

    def adopt_(self, model, plan):
        self.inner.adopt_(model, self._theirs(plan))

    def restore_(self):
        pass

    def default_plan(self, budget):
        return self._own(self.inner.default_plan(budget))

    def plan_cost(self, plan, unit):
        return self.inner.plan_cost(self._theirs(plan), unit)

    def dense_cost(self, unit):
        return self.inner.dense_cost(unit)

    def smallest_cost(self, unit):
        return self.inner.smallest_cost(unit)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)

    def _own(self, plan):
        return Plan(self.name, plan.decisions)

    def _theirs(self, plan):
        return Plan("lowrank", plan.decisions)


def test_a_methods_own_loss_is_trained_in_both_phases(run):
    settings = {"keep_dense": ["head"]}
    plain, _ = run("plain", method={"name": "lowrank", **settings})
    summary, rows = run("penalized", method={"name": "penalized", **settings})
    assert {row["phase"] for row in rows.epochs} == {"search", "finetune"}
    trained = [row for row in rows.epochs if row["phase"] == "finetune"]
    assert trained
    for row in trained:
        # Nothing else but the alignment, which is off, sets the two apart.
        assert row["loss"] > row["base_loss"] + WEIGHT
    assert summary["test_loss"] != plain["test_loss"]


def test_a_method_without_a_supernet_runs_with_uniform_plans(run, timeless, assert_same_state):
    assert not issubclass(Plain, Searchable)
    changes = {"method": {"name": "plain", "keep_dense": ["head"]}}
    changes["search"] = SearchConfig(strategy="uniform")
    summary, rows = run("whole", **changes)
    assert [row["distance"] for row in rows.searches] == [None, 0.0, 0.0]
    assert {(row["loss"], row["images"], row["steps"]) for row in rows.searches} == {(None, 0, 0)}
    stopped, before = run("cut", stop_after=3, **changes)
    resumed, after = run("cut", **changes)
    assert before.epochs[:-1] + after.epochs == rows.epochs
    assert timeless(resumed) == timeless(summary)


def test_the_default_strategy_wants_a_supernet(run):
    with pytest.raises(ValueError, match=r"search\.strategy: got 'gradient', allowed: uniform wit"):
        run(method={"name": "plain"})


def test_uniform_searches_give_the_plan_of_never(run):
    never, _ = run("never", schedule={"kind": "never"})
    uniform, rows = run("uniform", search=SearchConfig(strategy="uniform"))
    assert uniform["plan"] == never["plan"]
    assert uniform["search_epochs"] == [1, 2, 3] and never["searches"] == 0
    assert all(row["expected_cost"] is None for row in rows.searches)


def test_an_unknown_strategy_is_refused(run):
    with pytest.raises(ValueError, match=r"search\.strategy: got 'unifrom' \(did you mean 'unif"):
        run(search=SearchConfig(strategy="unifrom"))
