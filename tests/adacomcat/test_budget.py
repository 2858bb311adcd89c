import itertools

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from adacomcat.budget import Budget, project
from adacomcat.config import SearchConfig
from adacomcat.cost import count_macs
from adacomcat.search.penalty import DENSE_UNITS, penalized


def by_integer_programming(choices, target):
    """The value of the best plan within the target, by scipy; None where there is none."""
    values = np.concatenate([v for v, _ in choices])
    costs = np.concatenate([c for _, c in choices])
    one_of_each = np.zeros((len(choices), len(values)))
    start = 0
    for row, (site, _) in enumerate(choices):
        one_of_each[row, start : start + len(site)] = 1
        start += len(site)
    result = milp(
        -values,
        constraints=[
            LinearConstraint(costs[None], -np.inf, target),
            LinearConstraint(one_of_each, 1, 1),
        ],
        integrality=np.ones(len(values)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    return None if result.x is None else -result.fun


def log_probabilities(logits):
    logits = np.asarray(logits)
    return logits - np.log(np.exp(logits).sum())


site = st.lists(
    st.tuples(st.floats(-8, 8, width=32), st.integers(1, 60)), min_size=1, max_size=5
).map(lambda rows: (log_probabilities([r[0] for r in rows]), [r[1] for r in rows]))


@settings(deadline=None, max_examples=60)
@given(st.lists(site, min_size=1, max_size=7), st.integers(1, 250))
def test_the_plan_is_the_most_probable_within_the_budget(choices, target):
    smallest = sum(min(costs) for _, costs in choices)
    if smallest > target:
        with pytest.raises(ValueError, match=f"at least {smallest} params"):
            project(choices, target)
        return
    picks = project(choices, target)
    assert sum(c[i] for (_, c), i in zip(choices, picks, strict=True)) <= target
    value = sum(v[i] for (v, _), i in zip(choices, picks, strict=True))
    assert value == pytest.approx(by_integer_programming(choices, target), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-3, 0), st.integers(1, 9)), min_size=1, max_size=3),
        min_size=1,
        max_size=5,
    ),
    st.integers(5, 45),
)
def test_of_equally_likely_plans_the_cheaper(rows, target):
    """By enumeration, with integers, so that many plans tie exactly."""
    choices = [([float(v) for v, _ in site], [c for _, c in site]) for site in rows]
    plans = [
        (sum(v for v, _ in plan), -sum(c for _, c in plan)) for plan in itertools.product(*rows)
    ]
    within = [plan for plan in plans if -plan[1] <= target]
    if not within:
        return
    picks = project(choices, target)
    value = sum(v[i] for (v, _), i in zip(choices, picks, strict=True))
    cost = sum(c[i] for (_, c), i in zip(choices, picks, strict=True))
    assert (value, -cost) == max(within)


def test_the_budget_may_be_met_exactly():
    choices = [([-0.1, -3.0], [7, 2]), ([-0.1, -2.0], [5, 4])]
    assert project(choices, 12) == [0, 0]
    assert project(choices, 11.999) == [0, 1]
    assert project(choices, 6) == [1, 1]
    with pytest.raises(ValueError, match=r"budget: got 5.5, .*at least 6 macs .*the smallest"):
        project(choices, 5.5, "macs")


def test_a_choice_without_probability_is_taken_when_nothing_else_fits():
    choices = [([-np.inf, 0.0], [1, 10]), ([0.0, -1.0], [3, 2])]
    assert project(choices, 20) == [1, 0]
    assert project(choices, 4)[0] == 0


@pytest.mark.parametrize("sharpness", [0.0, 1e-6, 1.0, 30.0])
def test_a_large_model_with_coprime_costs(sharpness):
    """49 sites of 7 ranks: 7 ** 49 plans, and hardly two with the same cost."""
    source = np.random.default_rng(0)
    primes = [p for p in range(100_003, 130_000, 2) if all(p % q for q in range(3, 400, 2))]
    choices = []
    for index in range(49):
        costs = [primes[(37 * index + 11 * step) % len(primes)] * (step + 1) for step in range(7)]
        choices.append((log_probabilities(sharpness * source.normal(size=7)), costs))
    target = 0.5 * sum(max(costs) for _, costs in choices)
    picks = project(choices, target)
    assert sum(c[i] for (_, c), i in zip(choices, picks, strict=True)) <= target
    value = sum(v[i] for (v, _), i in zip(choices, picks, strict=True))
    assert value == pytest.approx(by_integer_programming(choices, target), rel=1e-6)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7])
def test_penalty_grows_with_the_excess_alone(ratio):
    loss = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    expected = torch.tensor(100 * ratio, dtype=torch.float64, requires_grad=True)
    total = penalized(loss, expected, Budget("params", 100.0, 7.0, 200.0), SearchConfig(beta=1.5))
    assert total.item() == pytest.approx(2 * max(ratio, 1) ** 1.5)
    total.backward()
    assert loss.grad.item() == pytest.approx(max(ratio, 1) ** 1.5)
    if ratio > 1:
        assert expected.grad.item() == pytest.approx(2 * 1.5 * ratio**0.5 / 100)
    if ratio < 1:
        assert expected.grad.item() == 0


@pytest.mark.parametrize("unit", [None, 40.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7])
def test_the_squared_penalty_pulls_from_both_sides(ratio, unit):
    loss = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    expected = torch.tensor(100 * ratio, dtype=torch.float64, requires_grad=True)
    config = SearchConfig(penalty="squared", penalty_weight=3.0, penalty_unit=unit)
    budget = Budget("macs", 100.0, 7.0, 230.0)
    total = penalized(loss, expected, budget, config)
    # 230 / 4.6 = 50
    off, one = 100 * ratio - 100, 50 if unit is None else unit
    assert total.item() == pytest.approx(2 + 3 * (off / one) ** 2)
    total.backward()
    assert loss.grad.item() == 1
    assert expected.grad.item() == pytest.approx(2 * 3 * off / one**2)


def test_the_unit_of_the_penalty_is_the_published_one_on_deit_small():
    with torch.device("meta"):
        model = timm.create_model("deit_small_patch16_224")
    assert count_macs(model, (3, 224, 224)) / DENSE_UNITS == pytest.approx(1e9, rel=2e-3)
