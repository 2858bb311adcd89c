"""A family that somebody else wrote: one class, one registration, and all else works."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import adacomcat
from adacomcat.cli.families import family_row, model_rows
from adacomcat.cli.main import main
from adacomcat.config import BudgetConfig, ModelConfig
from adacomcat.cost import count_macs
from adacomcat.methods.registry import build_method
from adacomcat.methods.specs import plan_of
from adacomcat.models import registry
from adacomcat.models.base import (
    AttentionView,
    BlockView,
    LinearView,
    ModelFamily,
    ModelView,
    StandInView,
    Support,
)
from adacomcat.models.heads import HeadAttention, Heads, copied
from adacomcat.models.registry import create_model, family_for, family_of, register_family
from adacomcat.models.tokens import BlockSteps, TokenSequence
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_, tiny_images
from adacomcat.training.distill import WithBlockOutputs


class OwnAttention(nn.Module):
    """Queries, keys and values by layers of their own; values are narrower than queries."""

    def __init__(self, width, heads, head, value):
        super().__init__()
        self.heads, self.head, self.value_width = heads, head, value
        self.query, self.key = nn.Linear(width, heads * head), nn.Linear(width, heads * head)
        self.value, self.out = nn.Linear(width, heads * value), nn.Linear(heads * value, width)

    def project(self, x):
        layers = (self.query, self.key, self.value)
        return [layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers]

    def forward(self, x):
        q, k, v = self.project(x)
        rows = (q @ k.mT * self.head**-0.5).softmax(-1)
        return self.out((rows @ v).transpose(1, 2).flatten(2))


class OwnLayer(nn.Module):
    def __init__(self, width, heads, head, value, hidden):
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing = OwnAttention(width, heads, head, value)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def feed(self, x):
        return x + self.down(self.up(self.after(x)).relu())

    def forward(self, x):
        return self.feed(x + self.mixing(self.before(x)))


class OwnModel(nn.Module):
    """No two of its layers have the same sizes."""

    def __init__(self, num_classes, side, width=24):
        super().__init__()
        self.side, self.num_classes, self.num_features = side, num_classes, width
        self.pixels = nn.Conv2d(3, width, 4, 4)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        sizes = [(2, 8, 6, 40), (3, 5, 4, 30), (1, 12, 12, 20)]
        self.layers = nn.Sequential(*(OwnLayer(width, *size) for size in sizes))
        self.classes = nn.Linear(width, num_classes)

    def features(self, images):
        x = self.pixels(images).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        return self.layers(x)

    def forward(self, images):
        return self.classes(self.features(images)[:, 0])


@dataclass(frozen=True)
class OwnAttentionView(AttentionView):
    def read(self, tensors):
        def rows(name):
            weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
            bias = None if bias is None else bias.view(self.heads, -1)
            return weight.view(self.heads, -1, weight.shape[1]).mT, bias

        (q, q_bias), (k, k_bias), (v, v_bias) = map(rows, ("query", "key", "value"))
        o = tensors["out.weight"].unflatten(1, (self.heads, -1)).transpose(0, 1)
        return Heads(q, k, v, o, q_bias, k_bias, v_bias, tensors.get("out.bias"))

    def write(self, heads):
        parts = {"query": (heads.q, heads.q_bias), "key": (heads.k, heads.k_bias)}
        parts["value"] = (heads.v, heads.v_bias)
        found = {f"{name}.weight": w.mT.flatten(0, 1) for name, (w, _) in parts.items()}
        found |= {f"{name}.bias": b.flatten() for name, (_, b) in parts.items()}
        found |= {"out.weight": heads.o.transpose(0, 1).flatten(1), "out.bias": heads.out_bias}
        return {name: copied(tensor) for name, tensor in found.items()}


class OwnSteps(BlockSteps):
    def attention(self, block):
        return block.mixing

    def mlp(self, block):
        return nn.ModuleList([block.up, block.down])

    def normed(self, block, x):
        return block.before(x)

    def add_attention(self, block, x, y):
        return x + y

    def add_mlp(self, block, x):
        return block.feed(x)

    def dense_widths(self, attention):
        return attention.query.out_features, attention.value.out_features

    def dense_project(self, attention, x):
        return attention.project(x)

    def dense_finish(self, attention, heads):
        return attention.out(heads.transpose(1, 2).flatten(2))

    def dense_scale(self, attention):
        return attention.head**-0.5

    def dense_dropout(self, attention):
        return 0.0


class OwnFamily(ModelFamily):
    name = "own"
    types = (OwnModel,)

    def support(self):
        return Support(("own-*",), {"qk, vo": "ranks"}, {})

    def makes(self, name):
        return name.startswith("own-")

    def names(self):
        return ("own-small",)

    def create(self, config, *, num_classes, in_chans, image_size):
        return OwnModel(num_classes, image_size, **config.options)

    def creation(self, model):
        sizes = {"num_classes": model.num_classes, "width": model.num_features}
        return "own-small", {"side": model.side, **sizes}

    def build(self, name, arguments):
        return OwnModel(**arguments)

    def convert_weights(self, model, state, where):
        return dict(state)

    def input_shape(self, model):
        return 3, model.side, model.side

    def pooling(self, model):
        return "token"

    def classifiers(self, model):
        return ("classes",)

    def embeddings(self, model):
        return ("pixels.weight",)

    def blocks(self, model):
        return tuple(f"layers.{index}" for index in range(len(model.layers)))

    def final_tokens(self, model, images):
        return model.features(images), 1

    def view(self, model):
        tokens = 1 + (model.side // 4) ** 2
        width = model.num_features
        blocks = []
        for name in self.blocks(model):
            layer = model.get_submodule(name)
            linears = tuple(
                linear(getattr(layer, kind), f"{name}.{kind}", kind, tokens)
                for kind in ("up", "down")
            )
            blocks.append(BlockView(name, width, tokens, attention(layer, name, tokens), linears))
        head = linear(model.classes, "classes", "head", 1)
        return ModelView(tuple(blocks), (head,))

    def tokens(self, model):
        return TokenSequence(
            "layers",
            len(model.layers),
            (model.side // 4) ** 2,
            prefix=1,
            scoring=1,
            pooled=False,
            width=model.num_features,
            steps=OwnSteps(),
        )


def linear(layer, name, kind, tokens):
    return LinearView(name, name, kind, layer.in_features, layer.out_features, tokens)


def attention(layer, name, tokens):
    found, place = layer.mixing, (name, f"{name}.mixing")
    if isinstance(found, HeadAttention):
        sizes = (found.width, found.num_heads, found.head_dim, found.value_dim, found.scale)
        return StandInView(*place, *sizes, tokens, tokens**2, stand_in=found)
    width = found.query.in_features
    sizes = (width, found.heads, found.head, found.value_width, found.head**-0.5)
    return OwnAttentionView(*place, *sizes, tokens, tokens**2)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    registry.families()
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    register_family(OwnFamily)


@pytest.fixture
def model():
    made = create_model(ModelConfig(name="own-small"), num_classes=7, in_chans=3, image_size=16)
    draw_parameters_(made, 0)
    return made.eval()


IMAGES = tiny_images(3)
EVERYTHING = {"name": "lowrank", "sites": ["*"]}


def test_a_name_belongs_to_one_family():
    assert family_for("own-x").name == family_of(OwnModel(7, 16)).name == "own"
    other = type("Other", (OwnFamily,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match="register_family: got 'own', allowed: not the name of"):
        register_family(other)
    register_family(OwnFamily)


def test_it_is_compressed_by_sensitivity(model):
    found = adacomcat.compress(model, tiny_images(33), reduction=0.3)
    assert found.report.strategy == "sensitivity" and 0.3 <= found.report.reduction < 0.35
    uniform = adacomcat.compress(model, reduction=0.3)
    others = tiny_images(16, seed=5)
    errors = [(each.model(others) - model(others)).norm() for each in (found, uniform)]
    assert errors[0] < errors[1]


def test_reading_and_writing_are_inverse(model):
    for name, view in family_of(model).view(model).attentions.items():
        tensors = {key: p.detach() for key, p in model.get_submodule(name).named_parameters()}
        again = view.write(view.read(tensors))
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@torch.no_grad()
def test_full_rank_is_the_dense_model(model):
    expected = model(IMAGES)
    method = build_method(model, {**EVERYTHING, "fractions": [1.0], "allow_larger": True})
    assert {site.kind for site in method.sites} == {"qk", "vo", "up", "down", "head"}
    method.commit_(Plan("lowrank", {site.name: site.full for site in method.sites}))
    torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["lowrank", "diffrate", "lowrank+diffrate"])
@torch.no_grad()
def test_a_plan_costs_what_is_committed_and_is_saved_and_loaded(model, name, tmp_path):
    settings = {key: value for key, value in EVERYTHING.items() if key != "name"}
    config = {"name": name, **(settings if name == "lowrank" else {})}
    if "+" in name:
        config["lowrank"] = settings
    method = build_method(model, config)
    searched, fixed = method.dense_cost("macs")
    assert searched + fixed == count_macs(model, (3, 16, 16))
    plan = method.default_plan(method.budget(BudgetConfig(unit="macs", reduction=0.15)))
    method.commit_(plan)
    assert method.plan_cost(plan, "macs") + fixed == count_macs(model, (3, 16, 16))
    adacomcat.save(model, tmp_path, plan=plan)
    loaded = adacomcat.load(tmp_path)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert plan_of(loaded) == plan_of(model)
    assert main(["info", "--from", str(tmp_path)]) == 0


def test_blocks_can_be_aligned(model):
    with_outputs = WithBlockOutputs(model, (0, -1))
    with with_outputs.hooked():
        logits, outputs = with_outputs(IMAGES)
    assert logits.shape == (3, 7) and [tuple(x.shape) for x in outputs] == [(3, 17, 24)] * 2


def test_it_is_listed(capsys):
    row = family_row(family_for("own-small"))
    assert (row["names"], row["models"], row["searched"]) == (["own-*"], 1, {"qk, vo": "ranks"})
    expected = {"model": "own-small", "family": "own", "ranks": "13 sites", "tokens": "3 blocks"}
    assert model_rows("own-*") == [expected]
    assert main(["models", "own-*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [expected]


def test_families_of_this_package_are_listed(capsys):
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    for words in ("timm ViT", "timm MetaFormer", "LoRA", "caformer_*", "own-*"):
        assert words in shown
    assert main(["models", "no such name"]) == 2
    rows = {row["model"]: row for row in model_rows("deit_tiny_*")}
    assert rows["deit_tiny_patch16_224"]["ranks"] == "49 sites"
    refused = model_rows("vit_small_patch16_18x2_224")[0]["ranks"]
    assert refused.startswith("refused: blocks.0: got 'ParallelThingsBlock'")
