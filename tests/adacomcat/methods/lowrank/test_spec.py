import json

import pytest
import timm
import torch

from adacomcat.config import BudgetConfig
from adacomcat.cost import count_params
from adacomcat.io.comcat import read_ranks
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.spec import (
    model_sites,
    plan_of,
    shape_,
    shape_of,
    shaped,
    shapes_for,
    shapes_of,
)
from adacomcat.models.registry import view_of
from adacomcat.plan import Plan
from adacomcat.testing.golden import reference_rows
from adacomcat.testing.models import tiny_images, tiny_vit

RANKS = "published_deit_small_ranks.csv"


def on_meta(name="deit_small_patch16_224", **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def committed(reduction=0.4, settings=None, **options):
    method = LowRank(tiny_vit(**options), LowRankConfig(**(settings or {})))
    method.commit_(method.default_plan(method.budget(BudgetConfig(reduction=reduction))))
    return method


MODELS = {
    "plain": {},
    "no qkv bias": {"qkv_bias": False},
    "no output bias": {"proj_bias": False},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "one head": {"num_heads": 1},
    "no classifier": {"num_classes": 0},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("biases", ["exact", "drop"])
def test_shapes_are_those_that_a_commit_makes(model, biases):
    options = MODELS[model]
    method = committed(settings={"biases": biases}, **options)
    dense = tiny_vit(seed=1, **options)
    shapes = shapes_for(dense, method.plan, biases=biases == "exact")
    assert json.loads(json.dumps(shapes)) == shapes_of(method.model)
    shape_(dense, shapes)
    dense.load_state_dict(method.model.state_dict())
    assert repr(dense) == repr(method.model)
    assert torch.equal(dense(tiny_images()), method.model(tiny_images()))
    assert plan_of(dense) == method.plan


def test_a_whole_side_of_an_attention_counts_as_its_full_rank():
    method = LowRank(tiny_vit(), LowRankConfig())
    decisions = dict.fromkeys((site.name for site in method.sites), None)
    method.commit_(Plan("lowrank", decisions | {"blocks.0.vo": 8, "blocks.1.fc1": 4}))
    assert plan_of(method.model) == Plan(
        "lowrank", decisions | {"blocks.0.qk": 32, "blocks.0.vo": 8, "blocks.1.fc1": 4}
    )
    assert plan_of(tiny_vit()) == Plan("lowrank", decisions)
    assert shapes_of(tiny_vit()) == {}


def part(model, name):
    view = view_of(model)
    return {**view.attentions, **view.linears}[name]


def test_dropout_mode_and_type_come_from_the_dense_module():
    model = tiny_vit(attn_drop_rate=0.3, proj_drop_rate=0.2).double().train()
    dense = model.blocks[0].attn
    shape = shape_of(committed().model.blocks[0].attn)
    module = shaped(part(model, "blocks.0.attn"), dense, shape)
    assert (module.attn_drop.p, module.proj_drop.p) == (0.3, 0.2)
    assert module.training and module.qkv.weight.dtype == torch.float64


def linear(**changes):
    return {"kind": "linear", "inputs": 32, "outputs": 10, "rank": 4, "bias": True} | changes


def attention(**changes):
    return {
        "kind": "attention",
        "width": 32,
        "heads": 4,
        "head_width": 8,
        "qk_rank": 2,
        "vo_rank": 3,
        "query_bias": True,
        "out_bias": True,
    } | changes


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("head", {"rank": 3}, "shape: got .*a mapping with a kind"),
        ("head", linear(kind="conv"), r"shape\.kind: got 'conv'.*attention, linear"),
        ("head", linear(extra=1), r"shape: got \['extra'\], allowed: exactly kind, inputs"),
        ("head", linear(rank=0), r"shape\.rank: got 0, allowed: an integer of 1 or more"),
        ("head", linear(rank=True), r"shape\.rank: got True"),
        ("head", linear(bias=1), r"shape\.bias: got 1, allowed: true or false"),
        ("head", linear(outputs=9), r"shape\.outputs: got 9, allowed: 10, the dense module's"),
        (
            "head",
            attention(),
            r"kind: got 'attention', allowed: what can replace its Linear",
        ),
        ("blocks.0.attn", linear(), "got 'linear', allowed: what can replace its Attention"),
        ("blocks.0.attn", attention(heads=2), r"shape\.heads: got 2, allowed: 4"),
    ],
)
def test_a_wrong_description_is_named(name, shape, message):
    with pytest.raises(ValueError, match=message):
        model = tiny_vit()
        shaped(part(model, name), model.get_submodule(name), shape)


def test_a_wrong_module_leaves_the_model_as_it_was():
    model = tiny_vit()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match="modules: got 'heads', allowed: a module of the model"):
        shape_(model, {"head": linear(), "heads": linear()})
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({"blocks.0.qq": 4}, r"got 'blocks\.0\.qq' \(did you mean"),
        ({"blocks.0.qk": 6}, r"blocks\.0\.qk: got 6, allowed: multiples of 4 heads up to 32"),
        ({"head": 11}, "head: got 11, allowed: 1 to 10"),
    ],
)
def test_a_plan_that_a_model_cannot_have_is_named(decisions, message):
    with pytest.raises(ValueError, match=rf"plan\.decisions.*{message}"):
        shapes_for(tiny_vit(), Plan("lowrank", decisions))


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="model: got 'ResNet'"):
        model_sites(timm.create_model("resnet18"))


# The published plans.


@pytest.mark.parametrize(
    ("epoch", "biases", "params"),
    [
        (1, False, 11_114_856),
        (2, False, 10_991_976),
        # With biases: those of the queries, one a rank, and 384 of the output a block.
        (2, True, None),
    ],
)
def test_a_file_of_the_published_ranks_gives_the_published_sizes(tmp_path, epoch, biases, params):
    rows = [row for row in reference_rows(RANKS) if int(row["epoch"]) == epoch]
    (tmp_path / "ranks.txt").write_text(",".join(row["rank"] for row in rows))
    model = on_meta()
    plan = read_ranks(tmp_path / "ranks.txt", model)
    names = [f"blocks.{row['block']}.{row['kind']}" for row in rows[:-1]] + ["head"]
    assert list(plan.decisions) == names
    shape_(model, shapes_for(model, plan, biases=biases))
    if params is None:
        queries = sum(int(row["rank"]) for row in rows if row["kind"] == "qk")
        params = 10_991_976 + queries + 12 * 384
    assert count_params(model) == params
