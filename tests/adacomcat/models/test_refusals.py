"""Models that others changed: at full rank the same function, or refused by name."""

import pytest
import timm
import torch
from timm.layers import Attention
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_images, tiny_vit


class Adapted(nn.Linear):
    """W x + A B x, as adapters are that subclass Linear."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.load_state_dict(base.state_dict())
        self.a = nn.Parameter(0.3 * torch.randn(base.out_features, 2))
        self.b = nn.Parameter(0.3 * torch.randn(2, base.in_features))

    def forward(self, x):
        return super().forward(x) + x @ self.b.T @ self.a.T


class Wrapped(nn.Module):
    """The same around the layer, with its attributes."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.extra = base, Adapted(base)
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.extra(x)


class Doubled(nn.Module):
    """Twice the weight, as a parametrization."""

    def forward(self, weight):
        return 2 * weight


class Halved(nn.Dropout):
    """Something else where dropout was."""

    def forward(self, x):
        return 0.5 * x


def replace(name, kind):
    def change(model):
        model.set_submodule(name, kind(model.get_submodule(name)))

    return change


def edit(name, change):
    return lambda model: change(model.get_submodule(name))


def doubled(module, inputs, outputs=None):
    return 2 * outputs if outputs is not None else (2 * inputs[0],)


def own_forward(module):
    module.forward = lambda *args, **kwargs: 2 * type(module).forward(module, *args, **kwargs)


def other_class(module):
    """As libraries do that merge tokens or count activations."""
    module.__class__ = type("Patched", (type(module),), {"forward": lambda self, x, **_: 2 * x})


def share(name, other):
    return lambda model: model.set_submodule(name, model.get_submodule(other))


def share_weight(model):
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight


def quantized(model):
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)


LINEARS = (
    "blocks.0.attn.qkv",
    "blocks.1.attn.proj",
    "blocks.0.mlp.fc1",
    "blocks.1.mlp.fc2",
    "head",
)
CHANGES = {
    "a second attention in one place": (
        share("blocks.1.attn", "blocks.0.attn"),
        "module of blocks.0",
    ),
    "a block twice": (share("blocks.1", "blocks.0"), "blocks.1: .*the module of blocks.0"),
    "a shared weight": (
        share_weight,
        r"blocks\.1\.mlp\.fc1\.weight: .*parameter of blocks\.0\.mlp",
    ),
    "another dropout": (replace("blocks.0.attn.attn_drop", lambda m: Halved(m.p)), "Halved"),
    "another output dropout": (replace("blocks.0.attn.proj_drop", lambda m: Halved(m.p)), "Halved"),
    "the class of an attention": (
        edit("blocks.1.attn", other_class),
        r"blocks\.1\.attn: got 'Patched'",
    ),
    "the class of a block": (edit("blocks.1", other_class), r"blocks\.1: got 'Patched'"),
    "the forward of an attention": (
        edit("blocks.0.attn", own_forward),
        r"blocks\.0\.attn\.forward",
    ),
    "the forward of a block": (edit("blocks.0", own_forward), r"blocks\.0\.forward"),
    "the forward of an MLP": (edit("blocks.0.mlp", own_forward), r"blocks\.0\.mlp\.forward"),
    "the forward of the model": (own_forward, r"model\.forward"),
    "a parameter beside": (
        edit("blocks.0.attn", lambda m: m.register_parameter("lora", nn.Parameter(torch.ones(3)))),
        r"blocks\.0\.attn: got \['lora'\], allowed: no parameters beside",
    ),
    "a module beside": (
        edit("blocks.0.attn", lambda m: m.add_module("lora", nn.Linear(2, 2))),
        r"blocks\.0\.attn: got \['lora'\], allowed: no submodules beside",
    ),
    "a buffer beside": (
        edit("blocks.0.mlp.fc1", lambda m: m.register_buffer("mask", torch.ones(3))),
        r"blocks\.0\.mlp\.fc1: got \['mask'\], allowed: no buffers beside",
    ),
    "another number of heads": (
        edit("blocks.1.attn", lambda m: setattr(m, "num_heads", 2)),
        r"blocks\.1\.attn\.qkv: rows: got 96, allowed: 48",
    ),
    "quantized layers": (quantized, r"blocks\.0\.attn\.qkv: got 'Linear'"),
}
for name in LINEARS:
    CHANGES |= {
        f"a subclass of {name}": (replace(name, Adapted), f"{name}: got 'Adapted', .*merge it"),
        f"a wrapper of {name}": (replace(name, Wrapped), f"{name}: got 'Wrapped', .*merge it"),
        f"a hook of {name}": (
            edit(name, lambda m: m.register_forward_hook(doubled)),
            f"{name}: got 'a forward hook', allowed: no hooks",
        ),
        f"a pre-hook of {name}": (
            edit(name, lambda m: m.register_forward_pre_hook(doubled)),
            f"{name}: got 'a forward pre-hook'",
        ),
        f"a forward of {name}": (edit(name, own_forward), rf"{name}\.forward"),
        f"a parametrization of {name}": (
            edit(name, lambda m: parametrize.register_parametrization(m, "weight", Doubled())),
            f"{name}: got 'ParametrizedLinear', .*remove_parametrizations",
        ),
        f"a weight norm of {name}": (
            edit(name, parametrizations.weight_norm),
            f"{name}: got 'ParametrizedLinear'",
        ),
        f"a mask of {name}": (
            edit(name, lambda m: prune.random_unstructured(m, "weight", 0.5)),
            f"{name}: got 'a forward pre-hook'",
        ),
    }


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_not_understood_is_named(what):
    change, message = CHANGES[what]
    model = tiny_vit()
    change(model)
    with pytest.raises(ValueError, match=message) as refused:
        LowRank(model, LowRankConfig())
    assert "\n" not in str(refused.value)


OF_TOKENS = {
    "a hook of the blocks": edit("blocks", lambda m: m.register_forward_hook(doubled)),
    "a hook of a block": edit("blocks.1", lambda m: m.register_forward_hook(doubled)),
    "a hook of an attention": edit("blocks.1.attn", lambda m: m.register_forward_hook(doubled)),
    "a hook of a dropout": edit(
        "blocks.1.attn.attn_drop", lambda m: m.register_forward_hook(doubled)
    ),
    "the class of the blocks": edit("blocks", other_class),
    "the forward of the blocks": edit("blocks", own_forward),
    "the forward of a block": edit("blocks.1", own_forward),
    "the forward of an attention": edit("blocks.1.attn", own_forward),
    "another attention": replace("blocks.1.attn", lambda m: nn.Identity()),
}


@pytest.mark.parametrize("what", OF_TOKENS)
def test_what_tokens_would_go_past_is_named(what):
    model = tiny_vit()
    OF_TOKENS[what](model)
    with pytest.raises(ValueError, match=r"blocks(\.1[.a-z_]*)?: got|blocks(\.1[.a-z]*)?\.forward"):
        DiffRate(model, DiffRateConfig())


@torch.no_grad()
def test_a_hook_on_what_stays_is_kept():
    model, images = tiny_vit(), tiny_images(2)
    model.blocks[1].register_forward_hook(doubled)
    expected = model(images)
    at_full_rank_(model)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


def at_full_rank_(model):
    method = LowRank(model, LowRankConfig(fractions=(1.0,), allow_larger=True))
    method.commit_(Plan("lowrank", {site.name: site.full for site in method.sites}))
    return method


def test_a_forward_put_into_the_class_itself_is_named(monkeypatch):
    monkeypatch.setattr(Attention, "forward", lambda self, x, **_: 2 * self.proj(x))
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.forward: got .*was replaced"):
        LowRank(tiny_vit(), LowRankConfig())


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_a_scale_set_by_hand_counts_where_the_forward_reads_it(fused):
    model, images = tiny_vit(), tiny_images(2)
    usual = model(images)
    model.blocks[0].attn.fused_attn = fused
    model.blocks[0].attn.scale = 0.9
    expected = model(images)
    # The fused kernel takes its own.
    assert torch.equal(expected, usual) == fused
    at_full_rank_(model)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


WRAPPERS = {
    "DataParallel": lambda: nn.DataParallel(tiny_vit()),
    "OptimizedModule": lambda: torch.compile(tiny_vit()),
    "VisionTransformer2": lambda: subclassed(),
    "PeftModel": lambda: peft(),
}


def subclassed():
    model = tiny_vit()
    model.__class__ = type("VisionTransformer2", (type(model),), {})
    return model


def peft():
    kind = type("PeftModel", (nn.Module,), {"peft_config": {}})
    model = kind()
    model.base_model = tiny_vit()
    return model


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_of_a_model_is_named_with_the_way_out(kind):
    hints = {"VisionTransformer2": "subclasses VisionTransformer", "PeftModel": "merge it"}
    message = f"model: got '{kind}', .*{hints.get(kind, 'pass the model inside')}"
    with pytest.raises(ValueError, match=message):
        LowRank(WRAPPERS[kind](), LowRankConfig())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["blocks.1.attn.qkv.weight", "blocks.0.mlp.fc2.bias", "pos_embed"])
def test_a_weight_that_is_no_number_is_named(name, value):
    model = tiny_vit()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = value
    message = rf"model\.{name}: got '1 of \d+ numbers NaN or infinite', allowed: finite numbers"
    with pytest.raises(ValueError, match=message):
        LowRank(model, LowRankConfig())


def test_an_adapter_in_a_committed_model_is_named():
    model = tiny_vit()
    at_full_rank_(model)
    model.blocks[0].attn.qkv = Adapted(model.blocks[0].attn.qkv)
    from adacomcat.methods.lowrank.spec import plan_of

    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv: got 'Adapted'"):
        plan_of(model)


def test_other_kinds_of_weights_are_named():
    model = tiny_vit()
    fc1 = model.blocks[0].mlp.fc1
    fc1.weight = nn.Parameter(fc1.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"mlp\.fc1\.weight: got 'torch.int8', .*floating point"):
        LowRank(model, LowRankConfig())


def test_a_model_of_timm_is_accepted_as_it_is():
    for name in ("vit_tiny_patch16_224", "deit3_small_patch16_224"):
        with torch.device("meta"):
            LowRank(timm.create_model(name, depth=1), LowRankConfig())
