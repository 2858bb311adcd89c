"""Several methods on one model: ranks and token counts, and parts whose costs add up."""

from functools import partial

import pytest
import torch

from adacomcat.config import BudgetConfig
from adacomcat.cost import count_macs
from adacomcat.methods.compose import compose
from adacomcat.methods.config import ComposeConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.registry import build_method
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.plan import Plan
from adacomcat.testing.methods import MethodConformance
from adacomcat.testing.models import tiny_images, tiny_vit

DEEP = partial(tiny_vit, depth=4)
POOLED = partial(DEEP, global_pool="avg", class_token=False)
SHAPE = (3, 16, 16)


class TestConformance(MethodConformance):
    configs = (
        {"name": "lowrank+diffrate"},
        {
            "name": "lowrank+diffrate",
            "lowrank": {"source": "dense", "keep_dense": ["head"]},
            "diffrate": {"merge": False},
            "share": 0.7,
        },
    )
    models = {"class token": DEEP, "no prefix": POOLED}
    units = ("macs",)
    reduction = 0.3


def method(build=DEEP, **settings):
    return build_method(build(), {"name": "lowrank+diffrate", **settings})


def want_large_ranks_(bound):
    """Make the largest ranks of a budget the most probable; logits of zero ask for the smallest."""
    logits = bound.parts[0].mixture.logits
    with torch.no_grad():
        logits.copy_(torch.arange(logits.shape[1]).float().expand_as(logits))


def in_macs(bound, reduction):
    return bound.budget(BudgetConfig(unit="macs", reduction=reduction))


@pytest.mark.parametrize("reduction", [0.2, 0.4, 0.6])
def test_both_meet_one_budget(reduction):
    bound = method(lowrank={"fractions": [i / 8 for i in range(1, 7)]})
    want_large_ranks_(bound)
    budget = in_macs(bound, reduction)
    plan = bound.propose(budget, "projected").plan
    dense = count_macs(bound.model, SHAPE)
    bound.commit_(plan)
    macs = count_macs(bound.model, SHAPE)
    assert macs == bound.plan_cost(plan, "macs") + budget.fixed
    assert 0.9 * (1 - reduction) * dense < macs <= (1 - reduction) * dense
    assert isinstance(bound.model.blocks, TokenBlocks)


def test_ranks_pay_their_share_of_a_budget():
    """Alone, with all tokens, they would reach dense x kept ** share."""
    kept = 0.5
    for share in (0.3, 0.6):
        bound = method(share=share, lowrank={"fractions": [i / 12 for i in range(1, 13)]})
        plan = bound.default_plan(in_macs(bound, 1 - kept))
        ranks, _ = bound.plans(plan)
        searched, fixed = bound.parts[0].dense_cost("macs")
        alone = bound.parts[0].plan_cost(ranks, "macs") + fixed
        assert 0.85 < alone / ((searched + fixed) * kept**share) <= 1


def test_one_after_the_other():
    """First the ranks, with all tokens and uniform rates; then the tokens, at those ranks."""
    bound = method(order="in_turn", share=0.3)
    want_large_ranks_(bound)
    budget = in_macs(bound, 0.4)
    images = tiny_images()
    steps = []
    for _ in range(2):
        bound.prepare_()
        bound.sample_(1.0, None)
        loss = bound.model(images).square().mean() + 1e-9 * bound.expected_cost("macs")
        loss.backward()
        steps.append([p.grad is not None for p in bound.architecture_parameters()])
        for parameter in bound.architecture_parameters():
            parameter.grad = None
        with torch.no_grad():
            logits = bound.parts[1].counts.logits
            logits.add_(torch.randn_like(logits))
        bound.commit_(bound.propose(budget, "projected").plan)
        steps.append(bound.plans(bound.plan))
    assert steps[0] == [True, False]
    assert steps[2] == [False, True]
    assert steps[1][0] == steps[3][0], "the ranks were searched again"
    assert steps[1][1] != steps[3][1]
    macs = count_macs(bound.model, SHAPE)
    assert macs <= budget.target + budget.fixed


def test_a_search_of_ranks_alone_counts_the_tokens_that_will_be_left():
    """Its expected cost is that of a plan of the same ranks with the rates that it gets."""
    bound = method(order="in_turn", lowrank={"fractions": [0.25, 0.5]})
    budget = in_macs(bound, 0.5)
    bound.prepare_()
    with torch.no_grad():
        bound.parts[0].mixture.logits[:, 0] = 1e4
    bound.sample_(1.0, None)
    ranks = {site.name: site.candidates[0].rank for site in bound.parts[0].sites}
    _, tokens = bound.plans(bound.default_plan(budget))
    plan = Plan(bound.name, {**ranks, **tokens.decisions})
    assert bound.expected_cost("macs").item() == pytest.approx(bound.plan_cost(plan, "macs"))
    assert min(kept for kept in tokens.decisions.values()) < bound.parts[1].form.tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"order": "tokens_first"},
            r"method\.order: got 'tokens_first', allowed: 'jointly' or",
        ),
        ({"share": 1.0}, r"method\.share: got 1\.0, allowed: below 1"),
        ({"lowrank": {"space": "x"}}, r"method\.lowrank\.space: got 'x'"),
        ({"lowrank": {"spase": "x"}}, r"method\.lowrank\.spase.*space"),
        ({"diffrate": {"granularity": 0}}, r"method\.diffrate\.granularity: got 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        build_method(DEEP(), {"name": "lowrank+diffrate", **settings})


def test_a_budget_below_both_is_refused():
    with pytest.raises(ValueError, match=r"budget\.reduction: got 0\.999, .*smallest"):
        in_macs(method(), 0.999)


# Other compositions.


class Ones(LowRank):
    """Ranks under another name, so that a composition can have two of it."""

    name = "ones"

    def check_adoptable(self, model, plan):
        raise NotImplementedError


def parts_of(model, *kinds):
    attention = LowRank(model, LowRankConfig(sites=("qk", "vo")))
    mlp = Ones(model, LowRankConfig(sites=("fc1", "fc2"), keep_dense=("head",)))
    known = {"attention": attention, "mlp": mlp, "tokens": DiffRate(model, DiffRateConfig())}
    return [known[kind] for kind in kinds]


@pytest.mark.parametrize("order", ["jointly", "in_turn"])
@pytest.mark.parametrize("unit", ["macs", "params"])
def test_parts_whose_costs_add_up(order, unit):
    model = DEEP()
    both = compose(parts_of(model, "attention", "mlp"), ComposeConfig(order=order))
    assert both.name == "lowrank+ones" and list(both.units) == ["params", "macs", "latency"]
    whole = LowRank(DEEP(), LowRankConfig(sites=("qk", "vo", "fc1", "fc2")))
    assert both.dense_cost(unit) == whole.dense_cost(unit)
    assert both.smallest_cost(unit) == whole.smallest_cost(unit)
    budget = both.budget(BudgetConfig(unit=unit, reduction=0.3))
    both.prepare_()
    both.sample_(1.0, None)
    if order == "jointly":
        whole.sample_(1.0, None)
        assert both.expected_cost(unit).item() == pytest.approx(whole.expected_cost(unit).item())
    plan = both.propose(budget, "projected").plan
    assert both.plan_cost(plan, unit) == whole.plan_cost(Plan("lowrank", plan.decisions), unit)
    assert both.plan_cost(plan, unit) <= budget.target
    both.commit_(plan)
    if unit == "macs":
        assert count_macs(model, SHAPE) == both.plan_cost(plan, unit) + budget.fixed


def test_three_parts_meet_one_budget():
    model = DEEP()
    three = compose(parts_of(model, "attention", "mlp", "tokens"), ComposeConfig(share=0.5))
    assert three.name == "lowrank+ones+diffrate" and list(three.units) == ["macs"]
    two = method(lowrank={"keep_dense": ["head"]})
    assert three.dense_cost("macs") == two.dense_cost("macs")
    budget = in_macs(three, 0.4)
    three.prepare_()
    three.sample_(1.0, None)
    assert three.expected_cost("macs").item() == pytest.approx(expected_of(two))
    plan = three.propose(budget, "projected").plan
    same = Plan(two.name, plan.decisions)
    assert three.plan_cost(plan, "macs") == two.plan_cost(same, "macs") <= budget.target
    three.commit_(plan)
    assert count_macs(model, SHAPE) == three.plan_cost(plan, "macs") + budget.fixed
    assert bool(model(tiny_images()).isfinite().all())


def expected_of(bound):
    bound.sample_(1.0, None)
    return bound.expected_cost("macs").item()


def test_three_parts_take_turns():
    three = compose(parts_of(DEEP(), "attention", "mlp", "tokens"), ComposeConfig(order="in_turn"))
    budget = in_macs(three, 0.4)
    kept = []
    for turn in range(4):
        three.prepare_()
        assert [bool(part._held) for part in three.parts] == [i == min(turn, 2) for i in range(3)]
        three.commit_(three.propose(budget, "projected").plan)
        kept.append(three.plans(three.plan))
    assert kept[0][0] == kept[1][0] == kept[3][0] and kept[1][1] == kept[2][1]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("attention",), "two methods or more"),
        (("attention", "attention"), "parts without common sites"),
        (("tokens", "mlp"), "diffrate last: its costs depend"),
    ],
)
def test_parts_that_do_not_go_together(kinds, message):
    with pytest.raises(ValueError, match=f"method.name: got .*{message}"):
        compose(parts_of(DEEP(), *kinds))


def test_parts_of_two_models_do_not_go_together():
    parts = [*parts_of(DEEP(), "attention"), *parts_of(DEEP(), "mlp")]
    with pytest.raises(ValueError, match="bound to one model"):
        compose(parts)
