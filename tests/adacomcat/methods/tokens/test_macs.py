import itertools

import pytest
import timm
import torch
from torch import nn

from adacomcat.cost import count_macs
from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.linear import LowRankLinear
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.macs import (
    BlockCost,
    block_costs,
    by_width,
    count,
    expected,
    published,
)
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import input_shape, tokens_of
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_caformer, tiny_vit

FACTORIZED = (LowRankAttention, LowRankLinear)


def low_rank_vit(**options):
    model = tiny_vit(**options)
    method = LowRank(model, LowRankConfig())
    ranks = [site.candidates[len(site.candidates) // 2].rank for site in method.sites]
    names = [site.name for site in method.sites]
    method.commit_(Plan("lowrank", dict(zip(names, ranks, strict=True))))
    return model


MODELS = {
    "deit": lambda: tiny_vit(depth=4),
    "distilled": lambda: tiny_vit("deit_tiny_distilled_patch16_224", depth=4),
    "registers": lambda: tiny_vit(depth=4, reg_tokens=2),
    "pooled": lambda: tiny_vit(depth=4, global_pool="avg", fc_norm=True),
    "no class token": lambda: tiny_vit(
        depth=4, global_pool="avg", fc_norm=True, class_token=False, mlp_ratio=3
    ),
    "low-rank": lambda: low_rank_vit(depth=4),
    "caformer": tiny_caformer,
}
RATES = {
    "nothing": Rates((None,) * 4, (None,) * 4),
    "prunes": Rates((None, 14, 9, 4), (None,) * 4),
    "merges": Rates((None,) * 4, (None, 13, 9, 5)),
    "both": Rates((15, 13, 10, 6), (14, 12, 8, 4)),
    "not falling": Rates((12, 16, 9, 11), (14, 10, 20, 5)),
    "one block": Rates((None, None, None, 9), (None, None, None, 6)),
}


def described(model):
    return tokens_of(model)


def cases():
    for model, rates in itertools.product(MODELS, RATES):
        merges_only = model == "caformer" and any(RATES[rates].prune)
        if not merges_only:
            yield model, rates


@pytest.mark.parametrize(("name", "rates"), list(cases()))
def test_what_a_committed_model_does_is_counted(name, rates):
    model = MODELS[name]()
    form, rates = described(model), RATES[rates]
    costs, shape = block_costs(model, form), input_shape(model)
    blocks = model.get_submodule(form.container)
    model.set_submodule(form.container, nn.Identity())
    rest = count_macs(model, shape)
    model.set_submodule(form.container, TokenBlocks(blocks.children(), rates, form))
    assert count(costs, rates.steps(form.tokens), form) == count_macs(model, shape) - rest


def kept_of(form, counts, free):
    """Counts as leaves, and where they belong: blocks in `free` have both sites."""
    kept = torch.tensor([float(c) for c in counts], requires_grad=True)
    rows = iter(range(len(counts)))
    return kept, [
        (next(rows), next(rows)) if b in free else (None, None) for b in range(form.depth)
    ]


def rates_of(counts, places):
    def pick(kind):
        return tuple(None if p[kind] is None else counts[p[kind]] for p in places)

    return Rates(pick(0), pick(1))


@pytest.mark.parametrize("min_gradient", ["active", "both"])
@pytest.mark.parametrize(
    "counts", [(13, 12, 9, 8, 6, 5), (12, 12, 12, 12, 12, 12), (8, 9, 16, 17, 5, 4)]
)
def test_the_expected_cost_is_that_of_the_counts(counts, min_gradient):
    model = MODELS["deit"]()
    form = described(model)
    costs = block_costs(model, form)
    kept, places = kept_of(form, counts, {1, 2, 3})
    total = expected(costs, form, kept, places, min_gradient)
    assert total.item() == count(costs, rates_of(counts, places).steps(form.tokens), form)


def work(costs, form, counts, places):
    """The cost at counts that need not be integers, every one of which holds tokens back."""
    total, tokens = 0.0, float(form.tokens)
    for cost, (prune, merge) in zip(costs, places, strict=True):
        pruned = tokens if prune is None else counts[prune]
        after = pruned if merge is None else counts[merge]
        assert after <= pruned <= tokens
        total += cost.linear * tokens + cost.square * tokens**2 + cost.mlp * after
        total += cost.score * tokens if after < tokens else 0
        total += 2 * (after - form.prefix) * (pruned - after) * cost.width
        tokens = after
    return total


def test_the_gradient_of_counts_that_all_hold_tokens_back():
    """Against differences of the cost; the last block has no site and passes its cost on."""
    model = MODELS["deit"]()
    form = described(model)
    costs = block_costs(model, form)
    counts = [13.0, 11.0, 8.0, 6.0]
    kept, places = kept_of(form, counts, {1, 2})
    expected(costs, form, kept, places, "active").backward()
    for row in range(4):
        up, down = list(counts), list(counts)
        up[row], down[row] = counts[row] + 0.25, counts[row] - 0.25
        slope = (work(costs, form, up, places) - work(costs, form, down, places)) / 0.5
        # The cost is quadratic in each count, so that differences are exact.
        assert kept.grad[row].item() == pytest.approx(slope, rel=1e-5)


def test_the_smaller_count_of_a_block_has_the_gradient_or_both():
    costs = [BlockCost(10, 2, 20, 0, 0)] * 2
    form = described(tiny_vit())
    for counts, active in (((9, 7), (0, 1)), ((7, 9), (1, 0)), ((8, 8), (0.5, 0.5))):
        kept, places = kept_of(form, counts, {1})
        slope = torch.autograd.grad(expected(costs, form, kept, places, "active"), kept)[0]
        assert slope.tolist() == [20 * share for share in active]
        slope = torch.autograd.grad(expected(costs, form, kept, places, "both"), kept)[0]
        assert slope.tolist() == [20, 20]


def test_a_count_above_what_arrives_is_still_drawn_down():
    costs = [BlockCost(10, 2, 20, 0, 0)] * 2
    form = described(tiny_vit())
    kept, places = kept_of(form, (6, 6, 9, 10), {0, 1})
    slope = torch.autograd.grad(expected(costs, form, kept, places, "active"), kept)[0]
    assert slope[2:].tolist() == [20, 0]


def test_costs_that_ranks_change_have_a_gradient():
    """A joint search: the cost of a linear layer depends on its ranks, and on the tokens."""
    form = described(tiny_vit())
    linear = torch.tensor(10.0, requires_grad=True)
    costs = [BlockCost(linear, 2, 20, 0, 0)] * 2
    kept, places = kept_of(form, (9, 7), {0})
    expected(costs, form, kept, places, "active").backward()
    assert linear.grad.item() == form.tokens + 7


@pytest.mark.parametrize("name", ["deit_small_patch16_224", "caformer_s18"])
def test_the_formula_of_a_dense_model_is_near_its_macs(name):
    """Class tokens as embedded patches and the head of CAFormer are what differs."""
    model = timm.create_model(name)
    form = described(model)
    steps = Rates((None,) * form.depth, (None,) * form.depth).steps(form.tokens)
    formula, macs = published(model, form, steps), count_macs(model, input_shape(model))
    assert formula != macs
    assert formula == pytest.approx(macs, rel=3e-4)


def test_the_formula_with_a_gradient_has_the_value_of_the_one_without():
    model = MODELS["low-rank"]()
    form = described(model)
    costs, counts = block_costs(model, form), (13, 12, 9, 8, 6, 5)
    kept, places = kept_of(form, counts, {1, 2, 3})
    at_counts = rates_of(counts, places).steps(form.tokens)
    dense = Rates((None,) * 4, (None,) * 4).steps(form.tokens)
    none = [(None, None)] * 4
    saved = expected(by_width(costs), form, kept, none, "both") - expected(
        by_width(costs), form, kept, places, "both"
    )
    assert saved.item() == published(model, form, dense) - published(model, form, at_counts)
