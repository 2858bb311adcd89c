"""Models whose heads or hidden units structural pruners cut away in some blocks."""

import copy
import json

import pytest
import torch
from torch import nn

import adacomcat
from adacomcat.config import BudgetConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.methods.lowrank import latency
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.spec import model_sites
from adacomcat.methods.registry import build_method
from adacomcat.methods.specs import plan_of, summaries, table
from adacomcat.models.registry import view_of
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_images, tiny_vit

IMAGES = tiny_images(3)
ARGUMENTS = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}


def narrower(model, block, keep, *, scale=None):
    """Keep so many channels of each head."""
    attention = model.blocks[block].attn
    d, heads = attention.head_dim, attention.num_heads
    weight = attention.qkv.weight.view(3, heads, d, -1)[:, :, :keep].flatten(0, 2)
    bias = attention.qkv.bias.view(3, heads, d)[:, :, :keep].flatten()
    out = attention.proj.weight.view(-1, heads, d)[:, :, :keep].flatten(1)
    _set(attention, weight, bias, out)
    attention.head_dim, attention.attn_dim = keep, heads * keep
    attention.scale = keep**-0.5 if scale is None else scale
    return model


def fewer(model, block, keep):
    """Keep the first heads."""
    attention = model.blocks[block].attn
    d, heads = attention.head_dim, attention.num_heads
    weight = attention.qkv.weight.view(3, heads, d, -1)[:, :keep].flatten(0, 2)
    bias = attention.qkv.bias.view(3, heads, d)[:, :keep].flatten()
    out = attention.proj.weight.view(-1, heads, d)[:, :keep].flatten(1)
    _set(attention, weight, bias, out)
    attention.num_heads, attention.attn_dim = keep, keep * d
    return model


def thinner(model, block, keep):
    """Keep the first hidden units of an MLP."""
    mlp = model.blocks[block].mlp
    fc1, fc2 = nn.Linear(mlp.fc1.in_features, keep), nn.Linear(keep, mlp.fc2.out_features)
    fc1.weight, fc1.bias = _p(mlp.fc1.weight[:keep]), _p(mlp.fc1.bias[:keep])
    fc2.weight, fc2.bias = _p(mlp.fc2.weight[:, :keep]), mlp.fc2.bias
    mlp.fc1, mlp.fc2 = fc1, fc2
    return model


def _set(attention, weight, bias, out):
    qkv, proj = nn.Linear(weight.shape[1], len(weight)), nn.Linear(out.shape[1], len(out))
    qkv.weight, qkv.bias = _p(weight), _p(bias)
    proj.weight, proj.bias = _p(out), attention.proj.bias
    attention.qkv, attention.proj = qkv, proj


def _p(tensor):
    return nn.Parameter(tensor.detach().clone())


def unfused(model):
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


PRUNED = {
    "narrower heads in block 0": lambda: narrower(tiny_vit(), 0, 5),
    "narrower heads in block 1": lambda: narrower(tiny_vit(), 1, 5),
    "narrower heads of the old scale": lambda: unfused(narrower(tiny_vit(), 1, 5, scale=8**-0.5)),
    "fewer heads in block 0": lambda: fewer(tiny_vit(), 0, 3),
    "one head in block 1": lambda: fewer(tiny_vit(), 1, 1),
    "fewer hidden units": lambda: thinner(tiny_vit(), 1, 50),
    "all of it": lambda: thinner(fewer(narrower(tiny_vit(), 0, 6), 1, 2), 0, 70),
}


@pytest.fixture(params=PRUNED)
def model(request):
    return PRUNED[request.param]()


@torch.no_grad()
def test_full_rank_is_the_dense_model(model):
    expected = model(IMAGES)
    method = LowRank(model, LowRankConfig(fractions=(1.0,), allow_larger=True))
    method.commit_(Plan("lowrank", {site.name: site.full for site in method.sites}))
    torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=1e-5)


def test_sizes_are_those_of_each_block():
    view = view_of(fewer(narrower(tiny_vit(), 0, 5), 1, 3))
    sizes = [(a.heads, a.head_width, a.scale) for a in view.attentions.values()]
    assert sizes == [(4, 5, 5**-0.5), (3, 8, 8**-0.5)]
    full = {
        site.name: site.full for site in model_sites(thinner(narrower(tiny_vit(), 0, 5), 1, 20))
    }
    assert (full["blocks.0.qk"], full["blocks.1.qk"]) == (20, 32)
    assert (full["blocks.0.fc1"], full["blocks.1.fc1"]) == (32, 20)


def committed(model):
    method = build_method(model, {"name": "lowrank"})
    plan = method.default_plan(method.budget(BudgetConfig(reduction=0.3)))
    method.commit_(plan)
    return method, plan


@torch.no_grad()
def test_costs_are_those_of_what_is_committed(model):
    dense = copy.deepcopy(model)
    method, plan = committed(model)
    assert plan_of(model) == plan
    for changed, decisions in ((dense, {}), (model, plan.decisions)):
        sites = sum(s.cost("macs", decisions.get(s.name)) for s in method.all_sites)
        rest = count_macs(changed, (3, 16, 16)) - sites
        assert rest == dense.patch_embed.num_patches * dense.patch_embed.proj.weight.numel()
    content = table(summaries(model, dense))
    assert sum(row["dense_macs"] for row in content["sites"]) + rest == count_macs(
        dense, (3, 16, 16)
    )
    assert count_params(model) < count_params(dense)


def test_a_search_runs_and_gives_the_mixture_at_hard_logits(model):
    method = LowRank(model, LowRankConfig())
    with torch.no_grad():
        method.mixture.logits.zero_()
        method.mixture.logits[:, 1] = 80.0
        method.prepare_()
        method.sample_(1.0, None)
        found = model(IMAGES)
        decisions = {s.name: s.candidates[min(1, len(s.candidates) - 1)].rank for s in method.sites}
        method.commit_(Plan("lowrank", decisions))
        torch.testing.assert_close(model(IMAGES), found, rtol=0, atol=1e-4)


def test_tokens_are_dropped_as_in_any_model(model):
    method = build_method(model, {"name": "diffrate"})
    budget = method.budget(BudgetConfig(unit="macs", reduction=0.1))
    plan = method.default_plan(budget)
    searched, fixed = method.dense_cost("macs")
    assert searched + fixed == count_macs(model, (3, 16, 16))
    method.commit_(plan)
    assert method.plan_cost(plan, "macs") + fixed == count_macs(model, (3, 16, 16))


def test_latency_measures_each_size(monkeypatch):
    model, calls = narrower(fewer(tiny_vit(depth=3), 1, 3), 2, 5), {}
    monkeypatch.setattr(latency, "take_turns", lambda variants, **_: calls.update(variants))
    method = LowRank(copy.deepcopy(model), LowRankConfig())
    latency.measure(model, method.sites, IMAGES, biases=True, repeats=1)
    dense = {"attention": 0, "attention blocks.1": 1, "attention blocks.2": 2}
    for name, block in dense.items():
        assert calls[name].func is model.blocks[block].attn
    for call in calls.values():
        call()
    entries = latency.sizes_by_kind(method.all_sites)
    assert list(entries) == [
        *("qk", "vo", "fc1", "fc2"),
        *("blocks.1.qk", "blocks.1.vo", "blocks.2.qk", "blocks.2.vo", "head"),
    ]
    assert entries["fc1"]["sites"] == 3 and entries["blocks.1.qk"]["heads"] == 3
    for site in method.sites:
        assert {f"{site.timed_as} {c.rank}" for c in site.candidates} <= calls.keys()


@torch.no_grad()
def test_a_committed_model_is_saved_and_loaded(model, tmp_path):
    committed(model)
    expected = model(IMAGES)
    adacomcat.save(model, tmp_path, model_args=ARGUMENTS)
    loaded = adacomcat.load(tmp_path)
    assert torch.equal(loaded(IMAGES), expected)
    assert plan_of(loaded) == plan_of(model)


@torch.no_grad()
def test_a_dense_model_is_saved_and_loaded(model, tmp_path):
    expected = model(IMAGES)
    adacomcat.save(model, tmp_path, model_args=ARGUMENTS)
    torch.testing.assert_close(adacomcat.load(tmp_path)(IMAGES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("blocks.0.attn", {"heads": 4, "head_width": 5}, "exactly heads, head_width, scale"),
        ("blocks.0.attn", {"heads": 0, "head_width": 5, "scale": 0.4}, r"heads: got 0"),
        (
            "blocks.0.attn",
            {"heads": 10**9, "head_width": 5, "scale": 0.4},
            r"heads: got 1000",
        ),
        ("blocks.0.attn", {"heads": 4, "head_width": 5, "scale": "x"}, r"scale: got 'x'"),
        ("blocks.0.mlp.fc1", {"inputs": 32, "outputs": 1.5}, r"outputs: got 1\.5"),
        ("blocks.7.mlp.fc1", {"inputs": 32, "outputs": 9}, r"sizes: got 'blocks\.7\.mlp\.fc1'"),
    ],
)
def test_damaged_sizes_are_named(tmp_path, name, sizes, message):
    adacomcat.save(tiny_vit(), tmp_path, model_args=ARGUMENTS)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["adacomcat"]["sizes"] = {name: sizes}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        adacomcat.load(tmp_path)


def test_what_has_no_other_sizes_is_refused(tmp_path):
    """A width that pruning cut everywhere stands in more places than the blocks."""
    model = tiny_vit(embed_dim=24)
    with pytest.raises(
        ValueError, match=r"cls_token: got \(1, 1, 32\), allowed: shape \(1, 1, 24\)"
    ):
        adacomcat.save(model, tmp_path, model_args=ARGUMENTS)
