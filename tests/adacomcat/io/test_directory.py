import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import adacomcat
from adacomcat.config import ModelConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.io.directory import read_config, read_plan
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.spec import plan_of
from adacomcat.models.registry import create_model, input_shape
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 4}


def build(name="vit_tiny_patch16_224", **options):
    """As a workload builds it, of 1-channel images and 7 classes."""
    config = ModelConfig(name=name, options=TINY | options)
    model = create_model(config, num_classes=7, in_chans=1, image_size=16)
    draw_parameters_(model, 0)
    return model.eval()


def images(model):
    return torch.randn(4, *input_shape(model), generator=torch.Generator().manual_seed(0))


def commit(model, decide, **settings):
    """Commit a model to the ranks that `decide` gives its sites."""
    method = LowRank(model, LowRankConfig(**settings))
    plan = Plan("lowrank", {site.name: decide(site) for site in method.sites})
    method.commit_(plan)
    return model, plan


def smallest(site):
    return site.groups


def half(site):
    return max(1, site.full // 2 // site.groups) * site.groups


def attention_only(site):
    return half(site) if site.attention else None


def values_only(site):
    return half(site) if site.kind == "vo" else None


FAMILIES = {
    "plain": {},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "DeiT III": {"name": "deit3_small_patch16_224"},
    "layer scale": {"init_values": 0.1},
    "average": {"global_pool": "avg", "class_token": False},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "registers": {"reg_tokens": 3},
    "no classifier": {"num_classes": 0},
    "regularized": {"drop_rate": 0.1, "attn_drop_rate": 0.2, "drop_path_rate": 0.3},
}
DECISIONS = {
    "smallest": smallest,
    "half": half,
    "attention": attention_only,
    "values": values_only,
}


@pytest.mark.parametrize(
    ("family", "decision"),
    [
        *((family, decision) for family in FAMILIES for decision in (None, "half")),
        *(("plain", decision) for decision in ("smallest", "attention", "values")),
        ("distilled", "smallest"),
    ],
)
def test_what_is_saved_loads_as_the_same_model(tmp_path, family, decision):
    model = build(**FAMILIES[family])
    plan = None
    if decision is not None:
        _, plan = commit(model, DECISIONS[decision])
    model.train()
    adacomcat.save(model, tmp_path, plan=plan)
    assert all(module.training for module in model.modules())
    again = adacomcat.load(tmp_path)
    assert not any(module.training for module in again.modules())
    assert torch.equal(again(images(model)), model.eval()(images(model)))
    assert repr(again) == repr(model)
    assert all(p.requires_grad for p in again.parameters())
    assert plan_of(again) == plan_of(model)
    assert read_plan(tmp_path) == (plan_of(model) if plan is None else plan)


def test_biases_that_were_dropped_stay_away(tmp_path):
    model, _ = commit(build(), half, biases="drop", keep_dense=("head",))
    adacomcat.save(model, tmp_path)
    again = adacomcat.load(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert read_plan(tmp_path).decisions["head"] is None


def test_another_process_needs_nothing_else(tmp_path):
    model, _ = commit(build(), half)
    adacomcat.save(model, tmp_path / "out")
    with torch.no_grad():
        torch.save({"x": images(model), "y": model(images(model))}, tmp_path / "pair.pth")
    code = (
        "import sys, torch, adacomcat\n"
        "pair = torch.load(sys.argv[2])\n"
        "y = adacomcat.load(sys.argv[1])(pair['x'])\n"
        "torch.testing.assert_close(y.detach(), pair['y'], rtol=0, atol=1e-6)"
    )
    paths = [str(tmp_path / "out"), str(tmp_path / "pair.pth")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, timeout=120)


def test_loading_draws_no_random_number(tmp_path):
    adacomcat.save(build(), tmp_path)
    before = torch.get_rng_state()
    adacomcat.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_configuration_says_what_the_model_is_and_costs(tmp_path):
    model, plan = commit(build("deit_tiny_patch16_224"), half)
    model.pretrained_cfg["mean"], model.pretrained_cfg["crop_pct"] = (0.1,), 0.8
    adacomcat.save(model, tmp_path, plan=plan, extra={"accuracy": 0.5})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == read_config(tmp_path)
    assert config["architecture"] == "deit_tiny_patch16_224"
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 7
    assert config["pretrained_cfg"]["input_size"] == [1, 16, 16]
    assert config["pretrained_cfg"]["crop_pct"] == 0.8
    assert config["model_args"] == TINY | {"num_classes": 7, "in_chans": 1, "img_size": 16}
    own = config["adacomcat"]
    assert own["params"] == count_params(model) and own["extra"] == {"accuracy": 0.5}
    assert own["macs"] == count_macs(model, (1, 16, 16))
    stored = load_file(tmp_path / "model.safetensors")
    assert own["params"] == sum(value.numel() for value in stored.values())
    again = adacomcat.load(tmp_path)
    assert again.pretrained_cfg["mean"] == (0.1,)
    adacomcat.save(again, tmp_path / "again", plan=plan, extra={"accuracy": 0.5})
    assert read_config(tmp_path / "again") == config


def test_timm_opens_what_is_dense(tmp_path):
    model = timm.create_model("deit_tiny_patch16_224", num_classes=20, img_size=32, patch_size=16)
    arguments = {"num_classes": 20, "img_size": 32}
    adacomcat.save(model.eval(), tmp_path, model_args=arguments)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images(model)), model(images(model)))


# A model of timm's own making.


def test_a_model_of_timm_with_the_datas_sizes_needs_nothing(tmp_path):
    model = timm.create_model("deit_tiny_patch16_224", num_classes=5, in_chans=1, img_size=32)
    adacomcat.save(model, tmp_path)
    assert torch.equal(adacomcat.load(tmp_path)(images(model)), model.eval()(images(model)))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"depth": 2}, r"has blocks\.2\.norm1\.weight, .*unknown to the model"),
        ({"depth": 2, "drop_rate": 0.1, "embed_dim": 96}, r"cls_token: got \(1, 1, 192\), allow"),
        ({"attn_drop_rate": 0.1}, r"Dropout\(p=0\.0.*Dropout\(p=0\.1"),
        ({"act_layer": "relu"}, "GELU.*ReLU"),
    ],
)
def test_options_of_timms_have_to_be_passed(tmp_path, options, found):
    model = timm.create_model("deit_tiny_patch16_224", **options)
    with pytest.raises(ValueError, match=f"model_args.*{found}.*pass what timm.create_model"):
        adacomcat.save(model, tmp_path)
    assert not (tmp_path / "config.json").exists()
    adacomcat.save(model, tmp_path, model_args=options)
    assert repr(adacomcat.load(tmp_path)) == repr(model)


def test_what_json_cannot_hold_is_named(tmp_path):
    model = timm.create_model("deit_tiny_patch16_224", act_layer=torch.nn.ReLU)
    with pytest.raises(ValueError, match=r"model_args\.act_layer: got <class .*what JSON can hold"):
        adacomcat.save(model, tmp_path, model_args={"act_layer": torch.nn.ReLU})


def test_a_function_without_modules_is_found_by_its_outputs(tmp_path):
    model = build()
    model.global_pool = "avg"
    with pytest.raises(ValueError, match="model_args: got 'other outputs'"):
        adacomcat.save(model, tmp_path)


def test_what_is_no_model_of_ours_is_refused(tmp_path):
    for model, name in ((timm.create_model("resnet18"), "ResNet"), (torch.nn.Linear(2, 2), "Line")):
        with pytest.raises(ValueError, match=f"model: got '{name}"):
            adacomcat.save(model, tmp_path)


def test_a_plan_of_another_model_is_refused(tmp_path):
    model, plan = commit(build(), half)
    for decisions, message in (
        ({"blocks.0.qk": 4}, r"plan\.decisions\.blocks\.0\.qk: got 4, allowed: 16, the rank in"),
        ({"blocks.0.qk": None}, "got None, allowed: 16"),
        ({"blocks.9.qk": 16}, r"plan\.decisions: got 'blocks\.9\.qk' \(did you mean"),
    ):
        with pytest.raises(ValueError, match=message):
            adacomcat.save(model, tmp_path, plan=Plan("lowrank", plan.decisions | decisions))


# Directories that are not what they should be.


@pytest.fixture
def saved(tmp_path):
    model, plan = commit(build(), half)
    adacomcat.save(model, tmp_path / "model", plan=plan)
    return tmp_path / "model"


def test_a_model_is_replaced_and_other_files_stay(saved):
    (saved / "run.json").write_text("{}")
    model = build(depth=1)
    adacomcat.save(model, saved)
    assert torch.equal(adacomcat.load(saved)(images(model)), model(images(model)))
    assert (saved / "run.json").exists() and not list(saved.glob(".*"))


def test_somebody_elses_configuration_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config\.json: not of a model that adacomcat saved"):
        adacomcat.save(build(), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_own(path, **changes):
    content = json.loads(path.read_text())
    edit(path, adacomcat=content["adacomcat"] | changes)


def swap_weights(folder):
    state = load_file(folder / "model.safetensors")
    save_file({key: value + 1 for key, value in state.items()}, folder / "model.safetensors")


def cut(name):
    def change(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json: missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing"),
        (cut("config.json"), r"config\.json: damaged: no JSON"),
        (cut("model.safetensors"), r"model\.safetensors: not the weights that config\.json names"),
        (swap_weights, r"model\.safetensors: not the weights that config\.json names"),
        (lambda f: (f / "config.json").write_text("[1]"), "not of a model that adacomcat saved"),
        (lambda f: edit(f / "config.json", adacomcat=1), "not of a model that adacomcat saved"),
        (lambda f: edit_own(f / "config.json", version=2), "version 2; this adacomcat reads"),
        (
            lambda f: edit(f / "config.json", architecture="vit_huge_nothing"),
            "architecture: got 'vit_huge_nothing', allowed: models of .*timm ViT",
        ),
        (lambda f: edit(f / "config.json", model_args={"heads": 3}), "model_args: timm .*'heads'"),
        (lambda f: edit_own(f / "config.json", modules={}), r"model\.safetensors: .*blocks\.0"),
        (
            lambda f: edit_own(f / "config.json", modules={"head": {"kind": "conv"}}),
            r"modules\.head\.kind: got 'conv'.*attention, linear",
        ),
        (
            lambda f: edit_own(f / "config.json", modules={"heads": {"kind": "linear"}}),
            "modules: got 'heads', allowed: a module of the model",
        ),
    ],
)
def test_a_damaged_or_foreign_directory_is_refused_by_name(saved, damage, message):
    damage(saved)
    with pytest.raises(ValueError, match=message):
        adacomcat.load(saved)


def test_a_damaged_plan_is_refused_by_name(saved):
    cut("plan.json")(saved)
    with pytest.raises(ValueError, match=r"plan\.json: no plan, or a damaged one"):
        read_plan(saved)
    (saved / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"plan\.json: missing"):
        read_plan(saved)
