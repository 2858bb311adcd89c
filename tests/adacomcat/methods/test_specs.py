"""Models that a method changed, or two: described, saved, loaded, exported, counted."""

import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import adacomcat
from adacomcat.config import ModelConfig
from adacomcat.cost import count_macs
from adacomcat.io.comcat import save_comcat
from adacomcat.io.directory import read_config, read_plan
from adacomcat.io.export import export_onnx, export_program
from adacomcat.methods.lowrank.spec import model_sites, shapes_for
from adacomcat.methods.lowrank.spec import plan_of as ranks_of
from adacomcat.methods.specs import check_plan, plan_of, shape_, shapes_of, summaries, table
from adacomcat.methods.tokens import spec as tokens
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import create_model, input_shape
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_, tiny_caformer, tiny_images

SIZES = {"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_size": 4}
RATES = Rates((None, 14, 9), (None, 11, 6))
KINDS = ("dense", "ranks", "tokens", "both")


def build(kind, **options):
    """A model as a workload makes it, of 16 patches, and what was done to it."""
    name = options.pop("name", "vit_tiny_patch16_224")
    config = ModelConfig(name=name, options=SIZES | options)
    model = create_model(config, num_classes=10, in_chans=3, image_size=16)
    if kind in ("ranks", "both"):
        plan = Plan("lowrank", {s.name: s.full // 2 for s in model_sites(model)} | {"head": None})
        shape_(model, shapes_for(model, plan))
    if kind in ("tokens", "both"):
        shape_(model, tokens.shapes_for(model, RATES))
    draw_parameters_(model, 0)
    return model.eval()


def make_caformer(side=64):
    """Small, but for its name: timm's own come in their full sizes."""
    model = timm.create_model("caformer_s18", num_classes=5)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, side, side)}
    return model.eval()


# As data.


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_makes_the_same_model_anew(kind):
    model, again = build(kind), build("dense")
    shape_(again, json.loads(json.dumps(shapes_of(model))))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(tiny_images()), model(tiny_images()))
    assert plan_of(again) == plan_of(model) and repr(again) == repr(model)
    check_plan(again, plan_of(model))


def test_the_plan_of_two_methods_is_the_union_of_theirs():
    model = build("both")
    ranks, rates = ranks_of(model), tokens.plan_of(model)
    assert plan_of(model) == Plan("lowrank+diffrate", {**ranks.decisions, **rates.decisions})
    assert plan_of(build("tokens")).method == "diffrate"
    assert plan_of(build("ranks")) == ranks
    dense = plan_of(build("dense"))
    assert dense.method == "lowrank" and set(dense.decisions.values()) == {None}
    assert plan_of(tiny_caformer()).method == "diffrate"


@pytest.mark.parametrize(
    ("kind", "plan", "message"),
    [
        ("both", Plan("lowrank", {"blocks.0.qk": 16}), r"plan\.method: got 'lowrank', .*lowrank\+"),
        ("tokens", Plan("lowrank", {"head": None}), r"plan\.method: got .*diffrate, which changed"),
        ("both", Plan("lowrank+diffrate", {"blocks.0.qk": 8}), "got 8, allowed: 16, the rank in"),
        ("both", Plan("lowrank+diffrate", {"blocks.1.prune": 8}), "got 8, allowed: 14, the tokens"),
        ("dense", Plan("diffrate", {"blocks.1.prune": 8}), "got 8, allowed: None"),
        ("tokens", Plan("diffrate", {"blocks.7.prune": 8}), r"got 'blocks\.7\.prune' \(did you"),
    ],
)
def test_a_plan_of_another_model_is_refused(kind, plan, message):
    with pytest.raises(ValueError, match=message):
        check_plan(build(kind), plan)


def test_a_bad_description_leaves_the_model_alone():
    model = build("dense")
    good = {"blocks": {"kind": "tokens", "prune": [None] * 3, "merge": [9] * 3, "sizes": "exact"}}
    with pytest.raises(ValueError, match=r"modules\.head\.kind: got 'conv'"):
        shape_(model, good | {"head": {"kind": "conv"}})
    assert shapes_of(model) == {}


# As files.


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_loads_as_the_same_model(tmp_path, kind):
    model = build(kind)
    adacomcat.save(model, tmp_path)
    again = adacomcat.load(tmp_path)
    assert torch.equal(again(tiny_images()), model(tiny_images()))
    assert read_plan(tmp_path) == plan_of(again) == plan_of(model)
    config = read_config(tmp_path)
    assert config["adacomcat"]["macs"] == count_macs(model, (3, 16, 16))
    assert config["adacomcat"]["modules"] == shapes_of(model)


def test_dropped_tokens_with_a_mean_and_two_prefix_tokens_load_too(tmp_path):
    for name, options in {
        "mean": {"global_pool": "avg", "fc_norm": True},
        "two": {"name": "deit_tiny_distilled_patch16_224"},
    }.items():
        model = build("both", **options)
        adacomcat.save(model, tmp_path / name)
        again = adacomcat.load(tmp_path / name)
        assert torch.equal(again(tiny_images()), model(tiny_images()))


def test_a_caformer_of_another_image_size_is_saved_and_loaded(tmp_path):
    model = make_caformer()
    depth = len(model.stages[2].blocks)
    rates = Rates((None,) * depth, (None, 12, 9, *(None,) * (depth - 3)))
    for kind in ("dense", "tokens"):
        if kind == "tokens":
            shape_(model, tokens.shapes_for(model, rates))
        adacomcat.save(model, tmp_path / kind)
        again = adacomcat.load(tmp_path / kind)
        assert input_shape(again) == (3, 64, 64)
        images = tiny_images(2, side=64)
        assert torch.equal(again(images), model(images))
        assert read_plan(tmp_path / kind) == plan_of(again)


def test_a_directory_from_before_tokens_could_be_dropped_opens(tmp_path):
    linear = {"kind": "linear", "inputs": 32, "outputs": 128, "rank": 4, "bias": True}
    model = build("dense")
    shape_(model, {"blocks.1.mlp.fc1": linear})
    draw_parameters_(model, 1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 10,
        "num_features": 32,
        "global_pool": "token",
        "model_args": SIZES | {"num_classes": 10, "in_chans": 3, "img_size": 16},
        "pretrained_cfg": {"input_size": [3, 16, 16], "num_classes": 10},
        "adacomcat": {
            "version": 1,
            "modules": {"blocks.1.mlp.fc1": linear},
            "params": 1,
            "macs": 1,
            "extra": {},
            "weights_sha256": digest,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(adacomcat.load(tmp_path)(tiny_images()), model(tiny_images()))


def edit_module(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["adacomcat"]["modules"]["blocks"] |= changes
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": [9, 9]}, r"rates\.merge: got '2 counts', allowed: 3"),
        ({"merge": [None, 1, 1]}, r"blocks\.1\.merge: got 1, allowed: 2 or more"),
        ({"sizes": None}, "sizes: got None, allowed: 'exact' or 'reference'"),
        ({"kind": "token"}, r"modules\.blocks\.kind: got 'token'"),
    ],
)
def test_a_damaged_directory_is_refused_by_name(tmp_path, changes, message):
    adacomcat.save(build("tokens"), tmp_path)
    edit_module(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        adacomcat.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokens", "both"])
def test_what_is_exported_agrees_with_the_model(tmp_path, kind):
    done = export_program(build(kind), tmp_path / "model.pt2")
    assert set(done.differences) == {1, 3, 5} and max(done.differences.values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"global_pool": "avg", "fc_norm": True}])
def test_onnx_runtime_agrees_with_the_model(tmp_path, options):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export_onnx(build("both", **options), tmp_path / "model.onnx")
    assert done.runtime is not None and max(done.differences.values()) <= 1e-4


def test_the_references_format_has_no_tokens(tmp_path):
    for kind in ("tokens", "both"):
        with pytest.raises(ValueError, match="model: got '.*diffrate', allowed: lowrank: the for"):
            save_comcat(build(kind), tmp_path / "comcat")
    assert not (tmp_path / "comcat").exists()


# What it costs.


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_all_else_are_what_the_counter_counts(kind):
    model, dense = build(kind), build("dense")
    found = table(summaries(model, dense))
    rest = count_macs(dense, (3, 16, 16))
    assert bool(found["blocks"]) == (kind in ("tokens", "both"))
    assert bool(found["sites"]) == (kind != "tokens")
    if kind == "dense":
        assert all(row["macs"] == row["dense_macs"] for row in found["sites"])
        return
    # What is outside the rows is the same in both models.
    rows = found["blocks"] or found["sites"]
    saved = sum(row["dense_macs"] - row["macs"] for row in rows)
    assert rest - saved == count_macs(model, (3, 16, 16))


def test_blocks_have_the_tokens_that_run_in_them():
    rows = table(summaries(build("tokens"), build("dense")))["blocks"]
    assert [(row["tokens"], row["pruned"], row["merged"]) for row in rows] == [
        (17, 17, 17),
        (17, 14, 11),
        (11, 9, 6),
    ]
    assert [row["block"] for row in rows] == ["blocks.0", "blocks.1", "blocks.2"]
    assert rows[0]["macs"] == rows[0]["dense_macs"]


def test_a_rank_costs_what_the_tokens_that_reach_it_make_of_it():
    sites = {row["site"]: row for row in table(summaries(build("both"), build("dense")))["sites"]}
    qk, fc1 = sites["blocks.2.qk"], sites["blocks.2.fc1"]
    assert (qk["rank"], fc1["rank"]) == (16, 16)
    # 11 tokens come into the block, and 6 into its MLP.
    assert qk["macs"] == 2 * 32 * 16 * 11 + 11**2 * 16
    assert fc1["macs"] == (32 + 128) * 16 * 6
    assert fc1["dense_macs"] == 32 * 128 * 17
    assert sites["head"]["macs"] == sites["head"]["dense_macs"] == 320


def test_the_published_formula_stands_beside_the_count():
    """Section 3.3 of the paper, by hand: 4 N C^2 + 2 N^2 C, and 8 N' C^2 of the MLP."""
    found = table(summaries(build("tokens"), build("dense")))
    blocks = sum(
        4 * n * 32**2 + 2 * n**2 * 32 + 8 * after * 32**2
        for n, after in ((17, 17), (17, 11), (11, 6))
    )
    assert found["published_macs"] == blocks + 17 * 32 * 3 * 16 + 32 * 10
    assert "published_macs" not in table(summaries(build("ranks"), build("dense")))
