import pytest
import timm
import torch

from adacomcat.config import BudgetConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.registry import build_method
from adacomcat.testing.models import tiny_vit


@pytest.fixture(scope="module")
def deit_small():
    with torch.device("meta"):
        model = timm.create_model("deit_small_patch16_224")
    return LowRank(model, LowRankConfig(space="paper", allow_larger=True))


def weights_by_hand(width=384, depth=12, classes=1000, patch=16):
    """(searched, patch embedding) weights without biases."""
    return depth * 12 * width**2 + width * classes, 3 * patch**2 * width


def test_published_target_of_deit_small(deit_small):
    budget = deit_small.budget(BudgetConfig(reduction=0.5))
    assert budget.target == 10_661_376
    searched, patches = weights_by_hand()
    assert (budget.dense, budget.fixed) == (searched + patches, patches)
    assert budget.attained(budget.target) == pytest.approx(0.5)
    assert budget.attained(searched) == pytest.approx(0)


def test_absolute_budgets(deit_small):
    relative = deit_small.budget(BudgetConfig(reduction=0.4))
    total = 0.6 * sum(weights_by_hand())
    assert deit_small.budget(BudgetConfig(reduction=None, absolute=total)).target == pytest.approx(
        relative.target
    )


def test_budgets_in_macs(deit_small):
    budget = deit_small.budget(BudgetConfig(unit="macs", reduction=0.5))
    assert budget.dense == 4_598_882_304
    assert budget.fixed == 196 * 3 * 16**2 * 384
    assert budget.target == 4_598_882_304 / 2 - budget.fixed


def test_what_is_not_searched_is_fixed():
    whole, part = (LowRank(tiny_vit(), LowRankConfig(sites=s)) for s in (("qk", "fc1"), ("fc1",)))
    for unit, site in (("params", 2 * 32 * 32), ("macs", 17 * 2 * 32 * 32 + 17**2 * 32)):
        searched, fixed = whole.dense_cost(unit)
        assert part.dense_cost(unit) == (searched - 2 * site, fixed + 2 * site)
        assert part.budget(BudgetConfig(unit=unit, reduction=0.01)).dense == searched + fixed


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (BudgetConfig(reduction=0.99), "budget.reduction: got 0.99"),
        (BudgetConfig(reduction=None, absolute=1e5), "budget.absolute: got 100000.0"),
        (BudgetConfig(unit="macs", reduction=0.95), "budget.reduction: got 0.95"),
    ],
)
def test_an_unreachable_budget_names_the_smallest_cost(deit_small, config, field):
    smallest = sum(site.cost(config.unit, site.candidates[0].rank) for site in deit_small.sites)
    smallest += deit_small.dense_cost(config.unit)[1]
    with pytest.raises(ValueError) as error:
        deit_small.budget(config)
    assert str(error.value).startswith(field)
    assert f"{smallest:,.0f} {config.unit}, the smallest reachable cost" in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "low_rank"}, r"method\.name: got 'low_rank' \(did you mean 'lowrank'\?\)"),
        ({"fraction": [0.5]}, r"method\.fraction: got 'fraction' \(did you mean 'fractions'\?\)"),
        ({"biases": "keep"}, r"method\.biases: got 'keep', allowed: 'exact' or 'drop'"),
    ],
)
def test_unknown_settings_name_the_nearest(config, message):
    with pytest.raises(ValueError, match=message):
        build_method(tiny_vit(), config)


def test_binding_changes_nothing():
    model = tiny_vit()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    modules = dict(model.named_modules())
    method = build_method(model, {"name": "lowrank", "biases": "drop"})
    assert method.plan is None
    assert dict(model.named_modules()) == modules
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
