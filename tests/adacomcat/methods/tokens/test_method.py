"""The token method keeps the rules of every method, and does what only it does."""

import copy
from functools import partial

import pytest
import torch

from adacomcat.config import BudgetConfig
from adacomcat.cost import count_macs
from adacomcat.methods.registry import build_method
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.plan import Plan
from adacomcat.testing.methods import MethodConformance
from adacomcat.testing.models import tiny_images, tiny_vit

DEEP = partial(tiny_vit, depth=4)
POOLED = partial(DEEP, global_pool="avg", class_token=False)
DISTILLED = partial(DEEP, "deit_tiny_distilled_patch16_224")
MAE = partial(DEEP, global_pool="avg")


class TestConformance(MethodConformance):
    configs = (
        {"name": "diffrate"},
        {
            "name": "diffrate",
            "granularity": 3,
            "sizes": "reference",
            "mask_gradient": "reference",
            "min_gradient": "both",
        },
        {"name": "diffrate", "merge": False},
        {"name": "diffrate", "prune": False, "fixed_blocks": [0, 2]},
    )
    models = {"class token": DEEP, "no prefix": POOLED}
    units = ("macs",)
    reduction = 0.2
    draws = False


class TestOtherModels(MethodConformance):
    configs = ({"name": "diffrate"},)
    models = {"distilled": DISTILLED, "mae": MAE}
    units = ("macs",)
    reduction = 0.2
    draws = False


def method(build=DEEP, **settings):
    return DiffRate(build(), DiffRateConfig(**settings))


def in_macs(bound, reduction):
    return bound.budget(BudgetConfig(unit="macs", reduction=reduction))


@pytest.mark.parametrize("build", [DEEP, DISTILLED, POOLED, MAE])
@pytest.mark.parametrize("reduction", [0.1, 0.2, 0.3])
def test_a_plan_comes_within_a_token_a_block_of_its_budget(build, reduction):
    """Scaled counts are rounded down, and what is left over goes to single tokens."""
    bound = method(build)
    budget = in_macs(bound, reduction)
    for seed in range(5):
        with torch.no_grad():
            noise = torch.randn(
                bound.counts.logits.shape, generator=torch.Generator().manual_seed(seed)
            )
            bound.counts.logits.copy_(2 * noise)
        bound.prepare_()
        cost = bound.propose(budget, "projected").cost
        bound.restore_()
        token = max(c.linear + c.mlp + 2 * bound.form.tokens * c.square for c in bound.costs)
        assert budget.target - bound.form.depth * token < cost <= budget.target


def test_argmax_takes_the_expected_counts_as_they_are():
    bound = method()
    bound.prepare_()
    plan = bound.propose(in_macs(bound, 0.3), "argmax").plan
    # Logits of zero: the mean of 1 to 16 patches is 8.5, rounded up, and a class token.
    assert set(plan.decisions.values()) == {10}


@pytest.mark.parametrize("build", [DEEP, POOLED])
def test_uniform_rates_keep_one_share_of_what_reaches_a_block(build):
    bound = method(partial(build, img_size=64))
    plan = bound.default_plan(in_macs(bound, 0.3))
    patches = bound.form.patches
    shares = []
    for block in range(1, bound.form.depth):
        kept = plan.decisions.get(f"blocks.{block}.merge")
        if kept is None:
            continue
        shares.append((kept - bound.form.prefix) / patches)
        patches = kept - bound.form.prefix
    assert max(shares) - min(shares) < 1 / patches
    assert max(shares) < 1


def test_a_search_starts_from_all_tokens_again():
    """Counts may grow back: a plan in force is no limit to the next."""
    bound = method()
    bound.commit_(bound.propose(in_macs(bound, 0.5), "projected").plan)
    few = bound.plan
    bound.prepare_()
    bound.commit_(bound.propose(in_macs(bound, 0.1), "projected").plan)
    assert all(bound.plan.decisions[site] >= kept for site, kept in few.decisions.items())
    assert bound.plan != few
    images = tiny_images()
    straight = method()
    straight.commit_(bound.plan)
    assert torch.equal(bound.model(images), straight.model(images))


def test_counts_beyond_what_arrives_change_nothing():
    bound = method()
    images = tiny_images()
    outputs = bound.model(images)
    macs = count_macs(bound.model, (3, 16, 16))
    bound.commit_(Plan("diffrate", dict.fromkeys(bound.rows, 1000)))
    assert isinstance(bound.model.blocks, TokenBlocks)
    torch.testing.assert_close(bound.model(images), outputs, rtol=0, atol=1e-5)
    assert count_macs(bound.model, (3, 16, 16)) == macs


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: method(granularity=0), r"method\.granularity: got 0, allowed: above 0"),
        (lambda: method(prune=False, merge=False), r"method\.prune"),
        (lambda: method(fixed_blocks=[4]), r"method\.fixed_blocks: got 4, .*which has 4"),
        (lambda: method(fixed_blocks=[0, 1, 2, 3]), r"method\.fixed_blocks"),
        (lambda: method().budget(BudgetConfig(unit="params")), r"budget\.unit: got 'params'.*macs"),
        (lambda: in_macs(method(), 0.9), r"budget\.reduction: got 0\.9, .*smallest reachable"),
        (
            lambda: method().budget(BudgetConfig(unit="macs", reduction=None, absolute=1e12)),
            r"budget\.absolute: got 1000000000000\.0, allowed: at most .*dense",
        ),
        (
            lambda: method().commit_(Plan("diffrate", dict.fromkeys(method().rows, 1))),
            r"blocks\.1\.prune: got 1, allowed: 2 or more",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_copies_in_the_middle_of_a_search_are_alike():
    """The published code's cached probabilities refuse to be copied."""
    bound = build_method(DEEP(), {"name": "diffrate"})
    bound.prepare_()
    bound.sample_(1.0, None)
    images = tiny_images()
    outputs = bound.model(images)
    assert torch.equal(copy.deepcopy(bound.model)(images), outputs)
