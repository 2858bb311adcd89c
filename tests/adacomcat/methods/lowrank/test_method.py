import numpy as np
import pytest
import timm
import torch

from adacomcat.config import BudgetConfig
from adacomcat.cost import count_params
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.golden import reference_rows
from adacomcat.testing.latency import made_up_table
from adacomcat.testing.methods import MethodConformance
from adacomcat.testing.models import tiny_images, tiny_vit

RANKS = "published_deit_small_ranks.csv"

IMAGES = tiny_images()

FAMILIES = {
    "vit": lambda: tiny_vit(),
    "deit": lambda: tiny_vit("deit_tiny_patch16_224"),
    "deit3": lambda: tiny_vit("deit3_small_patch16_224"),
    "distilled": lambda: tiny_vit("deit_tiny_distilled_patch16_224"),
    "average": lambda: tiny_vit(global_pool="avg", class_token=False),
    "average, fc_norm off": lambda: tiny_vit(global_pool="avg", fc_norm=False),
    "maximum": lambda: tiny_vit(global_pool="max"),
    "no qkv bias": lambda: tiny_vit(qkv_bias=False),
    "no output bias": lambda: tiny_vit(proj_bias=False),
    "layer scale": lambda: tiny_vit(init_values=1e-1),
    "registers": lambda: tiny_vit(reg_tokens=3),
    "one head": lambda: tiny_vit(num_heads=1),
    "no classifier": lambda: tiny_vit(num_classes=0),
}


class TestLowRank(MethodConformance):
    configs = ({"name": "lowrank"},)
    models = {
        "vit": tiny_vit,
        "distilled": FAMILIES["distilled"],
        "average": lambda: tiny_vit(
            global_pool="avg",
            class_token=False,
            qkv_bias=False,
            init_values=0.1,
            attn_drop_rate=0.3,
            proj_drop_rate=0.2,
        ),
    }


class TestLowRankSettings(MethodConformance):
    configs = (
        {"source": "dense", "metrics": "inputs"},
        {"biases": "drop", "space": "aligned", "keep_dense": ["blocks.0.qk", "head"]},
    )
    models = {"two heads": lambda: tiny_vit(num_heads=2)}


class TestLowRankInTime(MethodConformance):
    configs = ({"space": "fractions"}, {"source": "dense", "biases": "drop"})
    units = ("latency",)
    latency = made_up_table(tiny_vit())


def bind(model=None, **settings):
    return LowRank(tiny_vit() if model is None else model, LowRankConfig(**settings))


def plan_at(method, share, **changes):
    """Every site at a share of its full rank a head, and some elsewhere."""
    ranks = {s.name: max(1, int(share * s.full / s.groups)) * s.groups for s in method.sites}
    return Plan("lowrank", ranks | changes)


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_is_the_dense_model(family):
    model = FAMILIES[family]()
    outputs = model(IMAGES)
    method = bind(model)
    method.commit_(plan_at(method, 1))
    close(model(IMAGES), outputs)


@pytest.mark.parametrize("largest", [False, True])
def test_a_supernet_that_has_chosen_is_the_committed_model(largest):
    for family in ("vit", "distilled", "average"):
        method = bind(FAMILIES[family]())
        column = -1 if largest else 0
        for row, site in enumerate(method.sites):
            with torch.no_grad():
                method.mixture.logits[row, range(len(site.candidates))[column]] = 1e4
        method.prepare_()
        method.sample_(1.0, None)
        outputs = method.model(IMAGES).detach()
        ranks = {s.name: s.candidates[column].rank for s in method.sites}
        method.commit_(Plan("lowrank", ranks))
        close(method.model(IMAGES), outputs)


def test_full_rank_in_a_distilled_models_two_modes():
    model = FAMILIES["distilled"]()
    model.set_distilled_training(True)
    model.train()
    pair = model(IMAGES)
    assert len(pair) == 2
    method = bind(model)
    assert [s.name for s in method.sites][-2:] == ["head", "head_dist"]
    method.commit_(plan_at(method, 1))
    for output, expected in zip(model(IMAGES), pair, strict=True):
        close(output, expected)
    close(model.eval()(IMAGES), (pair[0] + pair[1]) / 2)


def test_full_rank_with_an_attention_mask():
    model = tiny_vit()
    mask = torch.randn(17, 17, generator=torch.Generator().manual_seed(0)) > -1
    mask |= torch.eye(17, dtype=torch.bool)
    outputs = model(IMAGES, attn_mask=mask)
    assert not torch.allclose(outputs, model(IMAGES), atol=0.1)
    method = bind(model)
    method.commit_(plan_at(method, 1))
    close(model(IMAGES, attn_mask=mask), outputs)


def test_dropped_biases_are_those_of_the_attention_alone():
    model = tiny_vit()
    bare = tiny_vit()
    with torch.no_grad():
        for block in bare.blocks:
            block.attn.qkv.bias.zero_()
            block.attn.proj.bias.zero_()
    method = bind(model, biases="drop")
    method.commit_(plan_at(method, 1))
    close(model(IMAGES), bare(IMAGES))
    assert not torch.allclose(model(IMAGES), tiny_vit()(IMAGES), atol=0.1)


def test_sites_kept_dense_keep_their_parameters():
    model = tiny_vit()
    before = dict(model.named_parameters())
    method = bind(model, sites=("vo", "blocks.1.fc1"))
    method.commit_(plan_at(method, 0.5))
    after = dict(model.named_parameters())
    modules = ("blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.1.attn.qkv", "blocks.1.attn.proj")
    replaced = {f"{m}.{p}" for m in (*modules, "blocks.1.mlp.fc1") for p in ("weight", "bias")}
    assert {n for n in before if after.get(n) is not before[n]} == replaced
    # Scores of full rank: only the values lost anything.
    assert model.blocks[0].attn.qkv.weight.shape == (32 + 32 + 16, 32)


def test_unchanged_sites_keep_their_parameters():
    method = bind()
    plan = plan_at(method, 0.5)
    method.commit_(plan)
    before = dict(method.model.named_parameters())
    attention = before["blocks.0.attn.qkv.weight"].detach().clone()
    method.prepare_()
    method.commit_(Plan("lowrank", dict(plan.decisions) | {"head": 2, "blocks.0.vo": 4}))
    after = dict(method.model.named_parameters())
    replaced = {n for n in before if after[n] is not before[n]}
    names = {"head.first.weight", "head.last.weight", "head.last.bias"}
    parts = ("qkv.weight", "q_bias", "proj.weight", "proj.bias")
    assert replaced == names | {f"blocks.0.attn.{part}" for part in parts}
    scores = 2 * 16
    assert torch.equal(after["blocks.0.attn.qkv.weight"][:scores], attention[:scores])
    assert torch.equal(after["head.last.bias"], before["head.last.bias"])


def test_source_current_only_falls():
    method = bind()
    method.commit_(plan_at(method, 0.5))
    with torch.no_grad():
        method.mixture.logits[:, -1] = 5.0
    method.prepare_()
    method.sample_(1.0, torch.Generator().manual_seed(0))
    for row, site in enumerate(method.sites):
        for column, candidate in enumerate(site.candidates):
            out_of_reach = candidate.rank > method.plan.decisions[site.name]
            assert (method.mixture.weights[row, column] == 0) == out_of_reach
    for unit in ("params", "macs"):
        budget = method.budget(BudgetConfig(unit=unit, reduction=0.1))
        for decision in ("projected", "argmax"):
            ranks = method.propose(budget, decision).plan.decisions
            assert all(rank <= method.plan.decisions[site] for site, rank in ranks.items())
    for rank in (20, 32, None):
        grown = Plan("lowrank", dict(method.plan.decisions) | {"blocks.1.qk": rank})
        message = r"plan\.decisions\.blocks\.1\.qk: got .*at most 16, .*'current' cannot grow"
        with pytest.raises(ValueError, match=message):
            method.commit_(grown)
    assert method.plan == plan_at(method, 0.5)
    method.restore_()


def test_source_current_below_all_candidates_stays():
    """A plan may lie below the space (a uniform one does): what follows must not need to grow."""
    method = bind()
    below = plan_at(method, 0.01)
    method.commit_(below)
    outputs = method.model(IMAGES)
    method.prepare_()
    method.sample_(1.0, None)
    close(method.model(IMAGES), outputs)
    budget = method.budget(BudgetConfig(reduction=0.5))
    proposal = method.propose(budget, "projected")
    assert proposal.plan == below
    assert proposal.cost == method.smallest_cost("params") == method.plan_cost(below, "params")
    assert method.commit_(proposal.plan).moves == ()


@pytest.mark.parametrize("family", ["vit", "distilled", "one head"])
def test_source_dense_grows_back_to_the_dense_function(family):
    model = FAMILIES[family]()
    outputs = model(IMAGES)
    method = bind(model, source="dense")
    for share in (0.5, 0.1, 0.3):
        method.commit_(plan_at(method, share))
        assert not torch.allclose(model(IMAGES), outputs, atol=0.1)
    method.prepare_()
    method.commit_(plan_at(method, 1))
    close(model(IMAGES), outputs)


def test_source_dense_goes_by_the_spectrum_of_the_dense_model():
    """Down to almost nothing and up again, untrained: the same as going there at once."""
    there_and_back, at_once = bind(source="dense"), bind()
    for share in (0.1, 0.7, 0.5):
        there_and_back.commit_(plan_at(there_and_back, share))
    at_once.commit_(plan_at(at_once, 0.5))
    close(there_and_back.model(IMAGES), at_once.model(IMAGES))


def test_source_dense_keeps_what_was_trained():
    model = tiny_vit()
    layer = model.blocks[0].mlp.fc1
    dense = layer.weight.detach().double().numpy()
    method = bind(model, source="dense")
    method.commit_(plan_at(method, 0.25))
    small = model.blocks[0].mlp.fc1
    remainder = dense - product(small)
    with torch.no_grad():
        source = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    trained = product(small)
    method.commit_(plan_at(method, 0.25, **{"blocks.0.fc1": 32}))
    assert model.blocks[0].mlp.fc1 is not small
    np.testing.assert_allclose(product(model.blocks[0].mlp.fc1), trained + remainder, atol=1e-5)


def product(layer):
    factors = (layer.last.weight, layer.first.weight)
    last, first = (factor.detach().double().numpy() for factor in factors)
    return last @ first


@pytest.mark.parametrize("family", ["vit", "no qkv bias"])
def test_source_dense_grows_back_to_null_and_resumes(family):
    model = FAMILIES[family]()
    outputs = model(IMAGES)
    method = bind(model, source="dense")
    method.commit_(plan_at(method, 0.5))
    method.commit_(Plan("lowrank", {s.name: None for s in method.sites}))
    close(model(IMAGES), outputs)
    again = bind(FAMILIES[family](), source="dense")
    again.load_state_dict(method.state_dict())
    again.model.load_state_dict(model.state_dict())
    assert torch.equal(again.model(IMAGES), model(IMAGES))


def test_state_of_a_searchable_method():
    method = bind()
    method.commit_(plan_at(method, 0.5))
    weights = method.model.state_dict()
    method.prepare_()
    again = bind()
    again.load_state_dict(method.state_dict())
    again.model.load_state_dict(weights)
    method.restore_()
    assert torch.equal(again.model(IMAGES), method.model(IMAGES))


def test_what_replaces_a_module_takes_its_mode():
    model = tiny_vit(attn_drop_rate=0.5, proj_drop_rate=0.5)
    method = bind(model)
    outputs = model(IMAGES)
    method.commit_(plan_at(method, 1))
    close(model(IMAGES), outputs)
    model.train()
    method.commit_(plan_at(method, 0.5))
    assert all(module.training for module in model.modules())


def test_a_search_starts_without_the_last_ones_draw():
    method = bind()
    method.prepare_()
    method.sample_(0.1, torch.Generator().manual_seed(0))
    drawn = method.model(IMAGES).detach()
    method.commit_(plan_at(method, 0.5))
    method.prepare_()
    fresh = method.model(IMAGES)
    method.sample_(1.0, None)
    assert torch.equal(fresh, method.model(IMAGES))
    assert not torch.allclose(fresh, drawn, atol=0.1)


def test_a_search_in_half_precision():
    method = bind(tiny_vit().bfloat16())
    method.prepare_()
    method.sample_(1.0, None)
    logits = method.model(IMAGES.bfloat16())
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert method.mixture.logits.grad.isfinite().all()


def test_a_committed_model_exports():
    method = bind(tiny_vit(depth=1))
    method.commit_(plan_at(method, 0.5))
    exported = torch.export.export(method.model, (IMAGES,))
    close(exported.module()(IMAGES), method.model(IMAGES))


def test_a_plan_of_other_sites_is_named():
    method = bind()
    plan = plan_at(method, 0.5, **{"blocks.7.qk": 8})
    with pytest.raises(ValueError, match=r"plan\.decisions: got \['blocks\.7\.qk'\]"):
        method.commit_(plan)


def test_default_plan_is_the_largest_uniform_one():
    method = bind()
    budget = method.budget(BudgetConfig(reduction=0.4))
    plan = method.default_plan(budget)
    spent = method.plan_cost(plan, "params")
    shares = sorted({k / s.full for s in method.sites for k in range(1, s.full + 1)})
    costs = [method.plan_cost(plan_at(method, share + 1e-9), "params") for share in shares]
    assert spent == max(cost for cost in costs if cost <= budget.target)


@pytest.mark.parametrize(("epoch", "params"), [(1, 11_114_856), (2, 10_991_976)])
def test_published_plans_have_the_published_sizes(epoch, params):
    rows = [row for row in reference_rows(RANKS) if int(row["epoch"]) == epoch]
    # The sizes need no weights, and the meta device decomposes shapes in no time.
    with torch.device("meta"):
        model = timm.create_model("deit_small_patch16_224")
    assert count_params(model) == 22_050_664
    method = bind(model, space="paper", allow_larger=True, biases="drop")
    kinds = [(site.kind, int(row["rank"])) for site, row in zip(method.sites, rows, strict=True)]
    assert [kind for kind, _ in kinds] == [row["kind"] for row in rows]
    names = [site.name for site in method.sites]
    method.commit_(Plan("lowrank", dict(zip(names, (rank for _, rank in kinds), strict=True))))
    assert count_params(model) == params
