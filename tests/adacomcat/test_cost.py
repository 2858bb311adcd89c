import pytest
import timm
import torch
from torch import nn

from adacomcat.cost import count_macs, count_params
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_vit

TINY = (3, 16, 16)


def by_hand(*, side, patch, width, depth, classes, prefix=1, heads=1, mlp=4, chans=3):
    """MACs of a vision transformer with dense blocks; `heads` are classifiers."""
    patches = (side // patch) ** 2
    tokens = patches + prefix
    embed = patches * chans * patch**2 * width
    block = tokens * (4 + 2 * mlp) * width**2 + 2 * tokens**2 * width
    return embed + depth * block + heads * width * classes


def test_macs_of_deit_small_by_hand():
    with torch.device("meta"):
        model = timm.create_model("deit_small_patch16_224")
    expected = by_hand(side=224, patch=16, width=384, depth=12, classes=1000)
    assert count_macs(model, (3, 224, 224)) == expected
    # 4.6 G in the papers' tables.
    assert expected == 4_598_882_304


@pytest.mark.parametrize(
    ("name", "options", "other"),
    [
        ("vit_tiny_patch16_224", {}, {}),
        ("deit_tiny_distilled_patch16_224", {}, {"prefix": 2, "heads": 2}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}, {"prefix": 0}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, {"prefix": 5}),
        ("vit_tiny_patch16_224", {"mlp_ratio": 2}, {"mlp": 2}),
    ],
)
def test_macs_by_hand_and_by_sites(name, options, other):
    model = tiny_vit(name, **options)
    expected = by_hand(side=16, patch=4, width=32, depth=2, classes=10, **other)
    assert count_macs(model, TINY) == expected
    method = LowRank(model, LowRankConfig())
    searched, fixed = method.dense_cost("macs")
    assert searched + fixed == expected
    assert fixed == 16 * 3 * 4**2 * 32
    ranks = {s.name: (1 + i) * s.groups for i, s in enumerate(method.sites[:8])}
    plan = Plan("lowrank", {s.name: ranks.get(s.name, 3) for s in method.sites})
    method.commit_(plan)
    assert count_macs(model, TINY) == method.plan_cost(plan, "macs") + fixed


def test_low_rank_attention_by_hand():
    method = LowRank(tiny_vit(), LowRankConfig(sites=("blocks.0.qk", "blocks.1.vo")))
    tokens, width, rank = 17, 32, 8
    dense = count_macs(method.model, TINY)
    method.commit_(Plan("lowrank", {"blocks.0.qk": rank, "blocks.1.vo": rank}))
    saved_a_site = (width - rank) * (2 * width * tokens + tokens**2)
    assert dense - count_macs(method.model, TINY) == 2 * saved_a_site


def test_counting_macs_leaves_the_model_as_it_was():
    model = tiny_vit(drop_rate=0.5).train().double()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, TINY)
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())


def test_a_shared_parameter_counts_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert count_params(model) == 24
    model[1].weight = model[0].weight
    assert count_params(model) == 15
