"""The optimizer's state through changes of rank, against gradients that autograd computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adacomcat.config import PhaseConfig
from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.linear import (
    LowRankLinear,
    build_linear,
    carry_linear,
    decompose_linear,
)
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_, tiny_images, tiny_vit
from adacomcat.training.optim import build_optimizer, migrate

PHASE = PhaseConfig()
IMAGES = tiny_images().double()


def plan_at(method, share, **changes):
    """Every site at a share of its full rank a head, and some elsewhere."""
    ranks = {s.name: max(1, int(share * s.full / s.groups)) * s.groups for s in method.sites}
    return Plan("lowrank", ranks | changes)


def gradients(model):
    """Parameter -> gradient of a loss that all of the model takes part in."""
    model.zero_grad()
    labels = torch.arange(len(IMAGES))
    F.cross_entropy(model(IMAGES), labels).backward()
    found = {p: p.grad.clone() for p in model.parameters()}
    model.zero_grad()
    return found


def optimizer_that_saw(model, moments):
    """An AdamW whose first moments are given, and second moments their squares."""
    optimizer = build_optimizer(model, PHASE)
    for parameter, moment in moments.items():
        state = {"exp_avg": moment.clone(), "exp_avg_sq": moment**2}
        optimizer.state[parameter] = {"step": torch.tensor(7.0), **state}
    return optimizer


@torch.no_grad()
def lower_(method, plan):
    """Give each product no more than the plan's rank, by a random singular matrix inside it."""
    source = torch.Generator().manual_seed(5)

    def singular(inner, rank):
        left, right = (torch.randn(inner, rank, generator=source).double() for _ in range(2))
        return left @ right.T / inner

    for site in method.sites:
        module = method.model.get_submodule(site.module)
        rank = plan.decisions[site.name] // site.groups
        if site.attention:
            rows = slice(0, None) if site.kind == "qk" else slice(-module.proj.in_features, None)
            weight = module.qkv.weight[rows]
            inner = module.proj.in_features // site.groups
            if site.kind == "qk":
                inner = (len(weight) - module.proj.in_features) // 2 // site.groups
            for head in range(site.groups):
                part = slice(head * inner, (head + 1) * inner)
                mix = singular(inner, rank)
                weight[part] = mix @ weight[part]
                bias = module.q_bias if isinstance(module, LowRankAttention) else module.qkv.bias
                if site.kind == "qk":
                    bias[part] = mix @ bias[part]
        elif isinstance(module, LowRankLinear):
            first = module.first.weight
            first.copy_(singular(len(first), rank) @ first)
        else:
            module.weight.copy_(singular(len(module.weight), rank) @ module.weight * 3)


@pytest.mark.parametrize("start", ["dense", "low-rank"])
@pytest.mark.parametrize("source", ["current", "dense"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_first_moments_become_the_gradients_of_the_new_parameters(name, source, start):
    """Where the truncation loses nothing, the new parameters' gradient is known: autograd's."""
    model = tiny_vit(name).double()
    method = LowRank(model, LowRankConfig(source=source))
    if start == "low-rank":
        method.commit_(plan_at(method, 0.8))
        method._rest.clear()  # what was cut off has no part in the gradient that autograd computes
    plan = plan_at(method, 0.5)
    lower_(method, plan)
    outputs = model(IMAGES)
    before = gradients(model)
    old = optimizer_that_saw(model, before)
    changes = method.commit_(plan)
    torch.testing.assert_close(model(IMAGES), outputs, rtol=0, atol=1e-9)
    new = migrate(old, model, PHASE, changes)
    expected = gradients(model)
    assert set(new.state) == set(model.parameters())
    for name, parameter in model.named_parameters():
        state, scale = new.state[parameter], expected[parameter].abs().max()
        close = torch.allclose(state["exp_avg"] / scale, expected[parameter] / scale, atol=1e-7)
        assert close, name
        assert state["exp_avg"].is_contiguous(), name
        assert state["exp_avg_sq"].shape == parameter.shape, name
        assert (state["exp_avg_sq"] >= 0).all(), name
        assert state["step"] == 7, name
    new.step()


def test_untouched_parameters_keep_their_state():
    model = tiny_vit().double()
    method = LowRank(model, LowRankConfig())
    plan = plan_at(method, 0.8)
    method.commit_(plan)
    old = optimizer_that_saw(model, gradients(model))
    before = dict(model.named_parameters())
    decisions = dict(plan.decisions) | {"blocks.1.vo": 8, "blocks.0.fc2": 3}
    new = migrate(old, model, PHASE, method.commit_(Plan("lowrank", decisions)))
    replaced = {n for n, p in model.named_parameters() if p is not before[n]}
    assert {n.split(".")[1] + "." + n.split(".")[2] for n in replaced} == {"1.attn", "0.mlp"}
    for name, parameter in model.named_parameters():
        if name not in replaced:
            for key, value in old.state[parameter].items():
                assert torch.equal(new.state[parameter][key], value), name
    # The score factors of the attention whose values changed kept their moments with their values.
    qkv = "blocks.1.attn.qkv.weight"
    rows = 2 * 24
    kept = old.state[before[qkv]]["exp_avg"][:rows]
    assert torch.equal(new.state[model.get_parameter(qkv)]["exp_avg"][:rows], kept)


def test_a_parameter_without_state_starts_fresh():
    model = tiny_vit().double()
    method = LowRank(model, LowRankConfig())
    old = build_optimizer(model, PHASE)
    new = migrate(old, model, PHASE, method.commit_(plan_at(method, 0.5)))
    assert not new.state


def test_a_linear_site_that_grows_back_to_dense_keeps_its_bias():
    model = tiny_vit().double()
    method = LowRank(model, LowRankConfig(source="dense"))
    method.commit_(plan_at(method, 0.5))
    old = optimizer_that_saw(model, gradients(model))
    bias = old.state[model.blocks[0].mlp.fc1.last.bias]
    changes = method.commit_(plan_at(method, 0.5, **{"blocks.0.fc1": None}))
    new = migrate(old, model, PHASE, changes)
    layer = model.blocks[0].mlp.fc1
    assert type(layer) is nn.Linear
    assert torch.equal(new.state[layer.bias]["exp_avg"], bias["exp_avg"])
    assert layer.weight not in new.state


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_second_moments_are_those_of_uncorrelated_gradients(shape):
    """Drawn by the thousand: the mean square of the new factors' gradients."""
    inputs, outputs = shape
    layer = nn.Linear(inputs, outputs)
    draw_parameters_(layer, 0)
    spectrum, rank = decompose_linear(layer, None, (None, None)), 4
    new = build_linear(layer, spectrum, rank)
    source = torch.Generator().manual_seed(0)
    variance = torch.rand(outputs, inputs, generator=source)
    drawn = torch.randn(20_000, outputs, inputs, generator=source) * variance.sqrt()
    expected = {
        "first.weight": (new.last.weight.T @ drawn).square().mean(0),
        "last.weight": (drawn @ new.first.weight.T).square().mean(0),
    }
    carried = carry_linear({"weight": variance}, 2, spectrum, rank)
    for name, value in expected.items():
        torch.testing.assert_close(carried[name], value, rtol=0.06, atol=0)
