"""Norms between queries, keys and scores: what is exact is searched, the rest stays as it was."""

import copy

import pytest
import torch

import adacomcat
from adacomcat.config import BudgetConfig
from adacomcat.cost import count_macs
from adacomcat.io.comcat import save_comcat
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.registry import build_method
from adacomcat.methods.specs import plan_of
from adacomcat.models.registry import view_of
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_images, tiny_vit

IMAGES = tiny_images(3)
ARGUMENTS = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}


@pytest.fixture
def model():
    return tiny_vit(qk_norm=True)


def test_the_product_of_queries_and_keys_is_no_site(model):
    (first, _) = view_of(model).attentions.values()
    assert (first.between, first.products) == ("norm", ("vo",))
    kinds = [site.kind for site in LowRank(model, LowRankConfig()).sites]
    assert "qk" not in kinds and kinds.count("vo") == 2


@pytest.mark.parametrize("mode", [True, False])
@torch.no_grad()
def test_full_rank_is_the_dense_model(model, mode):
    expected = model.train(mode)(IMAGES)
    norms = [block.attn.q_norm.weight for block in model.blocks]
    method = LowRank(model, LowRankConfig(fractions=(1.0,), allow_larger=True, metrics="inputs"))
    method.calibrate([IMAGES])
    method.commit_(Plan("lowrank", {site.name: site.full for site in method.sites}))
    torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=2e-5)
    for block, norm in zip(model.blocks, norms, strict=True):
        assert block.attn.between.q_norm.weight is norm


@torch.no_grad()
def test_a_mixture_at_hard_logits_is_the_committed_model(model):
    method = LowRank(model, LowRankConfig())
    method.mixture.logits[:, 1] = 80.0
    method.prepare_()
    method.sample_(1.0, None)
    found = model(IMAGES)
    moves = method.commit_(Plan("lowrank", {s.name: s.candidates[1].rank for s in method.sites}))
    torch.testing.assert_close(model(IMAGES), found, rtol=0, atol=1e-5)
    names = [name for move in moves.moves for name in (*move.old, *move.new)]
    assert not any("norm" in name for name in names)


@pytest.mark.parametrize("name", ["lowrank", "lowrank+diffrate"])
@torch.no_grad()
def test_a_plan_costs_what_is_committed_and_is_saved_and_loaded(model, name, tmp_path):
    dense = copy.deepcopy(model)
    method = build_method(model, {"name": name})
    searched, fixed = method.dense_cost("macs")
    assert searched + fixed == count_macs(dense, (3, 16, 16))
    plan = method.default_plan(method.budget(BudgetConfig(unit="macs", reduction=0.25)))
    method.commit_(plan)
    assert method.plan_cost(plan, "macs") + fixed == count_macs(model, (3, 16, 16))
    expected = model(IMAGES)
    adacomcat.save(model, tmp_path, plan=plan, model_args={**ARGUMENTS, "qk_norm": True})
    loaded = adacomcat.load(tmp_path)
    assert torch.equal(loaded(IMAGES), expected) and plan_of(loaded) == plan_of(model)


def test_dense_parameters_are_those_of_a_plain_model(model):
    counts = [sum(LowRank(m, LowRankConfig()).dense_cost("params")) for m in (model, tiny_vit())]
    assert counts[0] == counts[1]


def test_the_published_format_has_no_norms(model, tmp_path):
    method = LowRank(model, LowRankConfig())
    method.commit_(Plan("lowrank", {s.name: s.candidates[0].rank for s in method.sites}))
    with pytest.raises(ValueError, match=r"blocks\.0\.attn: got 'norm', allowed: nothing between"):
        save_comcat(model, tmp_path)
