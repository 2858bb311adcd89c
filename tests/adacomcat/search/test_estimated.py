"""Plans of the least estimated loss, against brute force and against whole forwards."""

import copy
import itertools

import pytest
import torch

from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.linear import build_linear, decompose_linear
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.replay import Replay
from adacomcat.methods.registry import build_method
from adacomcat.plan import Plan
from adacomcat.search.strategy import find_strategy
from adacomcat.testing.models import tiny_images, tiny_vit
from adacomcat.testing.strategies import StrategyConformance

IMAGES = tiny_images(16)
GRADIENTS = {"name": "lowrank", "metrics": "gradients"}


class TestSensitivity(StrategyConformance):
    strategy = "sensitivity"
    methods = (GRADIENTS, {**GRADIENTS, "space": "fine", "source": "dense"})


class TestMeasured(StrategyConformance):
    strategy = "measured"
    methods = (GRADIENTS,)


class TestEnergy(StrategyConformance):
    strategy = "energy"
    methods = ({"name": "lowrank"}, {"name": "lowrank", "source": "dense"})


class TestEffectiveRank(StrategyConformance):
    strategy = "effective_rank"
    methods = ({"name": "lowrank"},)


def searched(strategy, method, reduction=0.4, model=None, unit="params"):
    bound = build_method(tiny_vit() if model is None else model, method)
    budget = bound.budget(BudgetConfig(reduction=reduction, unit=unit))
    found = find_strategy(strategy)(
        bound, SearchConfig(strategy=strategy), budget, epochs=1, seed=0
    )
    found.prepare_(IMAGES.split(8))
    return bound, budget, found.search((), 0).proposal


@pytest.mark.parametrize("strategy", ["sensitivity", "energy", "effective_rank"])
def test_the_plan_is_the_best_of_all(strategy):
    """Every combination of the options of three sites, summed by hand."""
    sites = {"sites": ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.qk"], "ranks": {"qk": [8, 16, 24]}}
    bound, budget, proposal = searched(strategy, {**GRADIENTS, **sites}, reduction=0.1)
    losses = bound.losses_of_options("params", strategy, None)
    fitting = [
        picks
        for picks in itertools.product(*losses.values())
        if sum(option.cost for option, _ in picks) <= budget.target
    ]
    best = min(fitting, key=lambda picks: sum(loss for _, loss in picks))
    assert sum(1 for _ in fitting) > 10
    found = dict(proposal.plan.decisions)
    assert found == {name: picked.decision for name, (picked, _) in zip(losses, best, strict=True)}


@pytest.mark.parametrize("strategy", ["sensitivity", "measured", "energy", "effective_rank"])
def test_losses_fall_with_the_rank_and_dense_has_none(strategy):
    bound = build_method(tiny_vit(), GRADIENTS)
    bound.calibrate([IMAGES])
    losses = bound.losses_of_options("params", strategy, IMAGES)
    assert list(losses) == [site.name for site in bound.sites]
    for options in losses.values():
        values = [loss for _, loss in options]
        assert values == sorted(values, reverse=True) and values[0] > 0
        assert (options[-1][0].decision, values[-1]) == (None, 0.0)


def test_the_budget_is_filled():
    for unit in ("params", "macs"):
        method = {**GRADIENTS, "space": "fine"}
        _, budget, proposal = searched("sensitivity", method, unit=unit)
        dense_less_target = budget.dense - budget.target - budget.fixed
        assert 0 <= budget.target - proposal.cost < 0.02 * dense_less_target


def test_a_rank_that_is_measured_no_faster_stays_dense():
    """In a table of times in which no rank of fc1 saves any."""
    bound = build_method(tiny_vit(), {**GRADIENTS, "fractions": [0.5]})
    table, _, _ = bound.measure_times(IMAGES[:2], repeats=1, on="a test")
    for kind, entry in table["kinds"].items():
        factor = 1.5 if kind == "fc1" else 0.4
        entry["rank_ns"] = {rank: int(entry["dense_ns"] * factor) for rank in entry["rank_ns"]}
    config = BudgetConfig(unit="latency", reduction=0.02, latency=table)
    budget = bound.budget(config)
    strategy = find_strategy("sensitivity")(
        bound, SearchConfig(strategy="sensitivity"), budget, epochs=1, seed=0
    )
    strategy.prepare_([IMAGES])
    decisions = strategy.search((), 0).proposal.plan.decisions
    assert {decisions[name] for name in decisions if name.endswith("fc1")} == {None}
    assert any(rank is not None for rank in decisions.values())


@torch.no_grad()
def test_sensitivity_is_what_two_sided_truncation_loses():
    """The tail of the spectrum is the error of the product between its two metrics."""
    model = tiny_vit(depth=1)
    bound = LowRank(model, LowRankConfig(metrics="gradients"))
    bound.calibrate([IMAGES])
    losses = bound.losses_of_options("params", "sensitivity", None)
    for kind in ("fc1", "fc2", "head"):
        (site,) = (site for site in bound.sites if site.kind == kind)
        module, (left, right) = model.get_submodule(site.module), bound._metrics[site.name]
        spectrum = decompose_linear(module, None, (left, right))
        for option, loss in losses[site.name][:-1]:
            small = build_linear(module, spectrum, option.decision)
            error = module.weight - small.last.weight @ small.first.weight
            lost = (left.mT @ error.double().T @ right).square().sum() * site.tokens
            assert loss == pytest.approx(float(lost), rel=1e-3)


@torch.no_grad()
def test_effective_rank_gives_ranks_by_the_root():
    """k in proportion to sqrt(R / w), D-Rank's closed form, where steps of rank are fine."""
    method = {"name": "lowrank", "sites": ["fc1"], "ranks": {"fc1": list(range(1, 26))}}
    model = tiny_vit(depth=4)
    for scale, block in zip((0, 1, 2, 3), model.blocks, strict=True):
        decay = torch.linspace(0, -scale, len(block.mlp.fc1.weight.T)).exp()
        block.mlp.fc1.weight.mul_(decay)
    bound, budget, proposal = searched("effective_rank", method, reduction=0.2, model=model)
    ranks = []
    for site in bound.sites:
        s2 = torch.linalg.svdvals(model.get_submodule(site.module).weight.double()).square()
        shares = s2 / s2.sum()
        ranks.append(float(torch.exp(-(shares * shares.log()).sum())) ** 0.5)
    cost = bound.sites[0].cost("params", 1)
    expected = [rank * budget.target / cost / sum(ranks) for rank in ranks]
    found = [proposal.plan.decisions[site.name] for site in bound.sites]
    assert len(set(found)) > 1
    assert all(abs(a - b) <= 1.5 for a, b in zip(found, expected, strict=True)), (found, expected)


@torch.no_grad()
def test_a_replayed_error_is_that_of_a_whole_forward():
    model = tiny_vit()
    images, bound = tiny_images(12), LowRank(model, LowRankConfig())
    family = bound._family
    replay = Replay(model, family.blocks(model), family.probe(model), images)
    expected = model(images)
    for site in bound.sites:
        module = bound._truncated(site, site.candidates[0].rank)
        changed = copy.deepcopy(model)
        changed.set_submodule(site.module, module)
        error = (changed(images).double() - expected.double()).square().sum(-1).mean()
        assert replay.error(site.module, module) == pytest.approx(float(error), rel=1e-4)
    assert torch.equal(model(images), expected)


def test_measured_losses_are_those_of_evaluation():
    """Without dropout, in whatever mode the model is, which stays as it was."""
    found = []
    for training in (False, True):
        model = tiny_vit(drop_rate=0.5, proj_drop_rate=0.5).train(training)
        bound = build_method(model, GRADIENTS)
        bound.calibrate([IMAGES])
        losses = bound.losses_of_options("params", "measured", IMAGES)
        found.append({site: [loss for _, loss in options] for site, options in losses.items()})
        assert all(module.training is training for module in model.modules())
    assert found[0] == found[1]


@pytest.mark.parametrize("strategy", ["sensitivity", "measured"])
@pytest.mark.parametrize("metrics", ["plain", "inputs", "attention"])
def test_errors_of_the_output_want_metrics_of_gradients(strategy, metrics):
    method = {"name": "lowrank", "metrics": metrics}
    with pytest.raises(ValueError, match=rf"method\.metrics: got '{metrics}', allowed: gradients"):
        searched(strategy, method)


def test_methods_without_estimates_are_refused():
    allowed = r"search\.strategy: got 'sensitivity', allowed: uniform with method.name 'diffrate'"
    with pytest.raises(ValueError, match=allowed):
        searched("sensitivity", {"name": "diffrate"}, unit="macs", model=tiny_vit(depth=4))


def test_a_later_search_keeps_to_ranks_in_force():
    bound, budget, proposal = searched("sensitivity", GRADIENTS)
    bound.commit_(proposal.plan)
    strategy = find_strategy("sensitivity")(
        bound, SearchConfig(strategy="sensitivity"), budget, epochs=2, seed=0
    )
    strategy.prepare_([tiny_images(8, seed=3)])
    again = strategy.search((), 1).proposal.plan
    assert isinstance(again, Plan)
    for site, rank in again.decisions.items():
        before = proposal.plan.decisions[site]
        assert before is None or (rank is not None and rank <= before)
