"""Every strategy keeps the rules of `adacomcat.testing.strategies`, and is found by its name."""

import pytest

from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.methods.registry import build_method
from adacomcat.search.strategy import Strategy, find_strategy, strategies
from adacomcat.search.uniform import Uniform
from adacomcat.testing.models import tiny_vit
from adacomcat.testing.strategies import StrategyConformance


class TestGradient(StrategyConformance):
    strategy = "gradient"
    settings = {"lr": 0.1, "penalty": "squared"}


class TestUniform(StrategyConformance):
    strategy = "uniform"


class Cheapest(Strategy):
    """A strategy from outside: the cheapest option of each site."""

    name = "cheapest for the test"
    needs_images = False

    def search(self, batches, epoch, steps=None):
        raise NotImplementedError


def test_strategies_are_found_by_name():
    known = strategies()
    assert known["uniform"] is Uniform and {"gradient", Cheapest.name} <= set(known)
    with pytest.raises(ValueError, match=r"search\.strategy: got 'gradiant' \(did you mean 'grad"):
        find_strategy("gradiant")


def test_uniform_is_the_default_plan():
    method = build_method(tiny_vit(), {"name": "lowrank"})
    budget = method.budget(BudgetConfig(reduction=0.5))
    strategy = Uniform(method, SearchConfig(), budget, epochs=3, seed=0)
    found = strategy.search((), 1).proposal
    assert found.plan == method.default_plan(budget)
    assert found.cost == method.plan_cost(found.plan, "params")
