import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from adacomcat.config import BudgetConfig
from adacomcat.cost import count_params
from adacomcat.io.comcat import load_comcat, read_numbers, read_ranks, save_comcat
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.spec import plan_of
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_, tiny_images, tiny_vit

BESIDE = Path(__file__).parents[4] / "shared" / "golden"
GOLDEN = Path(os.environ.get("ADACOMCAT_GOLDEN", BESIDE))
needs_golden = pytest.mark.skipif(
    not (GOLDEN / "comcat_upstream").exists(), reason=f"no reference checkpoint in {GOLDEN}"
)
LAYER = "selected_rank_layer"
HEAD = f"head.{LAYER}.first_factor.weight"
QUERIES = f"blocks.1.attn.{LAYER}.w_qs.weight"


def dense(name="vit_tiny_patch16_224", **options):
    """10 channels of output, so that the classifier has a rank; `tiny_vit` with token pooling."""
    return tiny_vit(name, **options)


def reference_state(model, *, biases=True):
    """A dense timm model as the reference would keep it at full ranks, biases and all."""
    state = {}
    for key, value in model.state_dict().items():
        module, _, kind = key.rpartition(".")
        if module.endswith("attn.qkv"):
            for part, rows in zip(("w_qs", "w_ks", "w_vs"), value.chunk(3), strict=True):
                state[f"{module[:-4]}.{LAYER}.{part}.{kind}"] = rows
        elif module.endswith("attn.proj"):
            state[f"{module[:-5]}.{LAYER}.proj.{kind}"] = value
        elif module.endswith(("fc1", "fc2")) or module == "head":
            layer = f"{module}.{LAYER}"
            if kind == "bias":
                state[f"{layer}.last_factor.bias"] = value
                continue
            eye = torch.eye(min(value.shape))
            first, last = (eye, value) if value.shape[1] == len(eye) else (value, eye)
            state[f"{layer}.first_factor.weight"] = first
            state[f"{layer}.last_factor.weight"] = last
        else:
            state[key] = value
    if not biases:
        state = {k: v for k, v in state.items() if not (".attn." in k and k.endswith("bias"))}
    return state


def full_ranks(model):
    width = model.embed_dim
    return [width] * 4 * len(model.blocks) + [min(width, model.num_classes)]


def write(folder, state, ranks, **beside):
    folder.mkdir(exist_ok=True)
    torch.save({"model": state, **beside}, folder / "checkpoint.pth")
    (folder / "ranks.txt").write_text(",".join(map(str, ranks)))
    return folder


def committed(biases="exact", **options):
    method = LowRank(dense(**options), LowRankConfig(biases=biases))
    method.commit_(method.default_plan(method.budget(BudgetConfig(reduction=0.4))))
    return method.model


def same_state(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Against the reference's own numbers.


@pytest.fixture
def golden():
    with np.load(GOLDEN / "comcat_core.npz") as arrays:
        return {name: arrays[name] for name in ("geometry", "x", "ranked_logits", "ranks")}


def golden_skeleton(golden, **options):
    width, depth, heads, classes, image, patch = golden["geometry"].tolist()
    sizes = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "num_classes": classes,
        "img_size": image,
        "patch_size": patch,
    }
    return timm.create_model("vit_tiny_patch16_224", **(sizes | options))


@needs_golden
@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_the_references_checkpoint_gives_its_logits(golden, where):
    with torch.device(where):
        skeleton = golden_skeleton(golden)
    model = load_comcat(GOLDEN / "comcat_upstream", skeleton)
    assert not model.training
    expected = torch.from_numpy(golden["ranked_logits"])
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.from_numpy(golden["x"])), expected, rtol=0, atol=1e-4
        )
    assert list(plan_of(model).decisions.values()) == golden["ranks"].tolist()
    content = torch.load(GOLDEN / "comcat_upstream" / "checkpoint.pth", weights_only=False)
    assert count_params(model) == sum(value.numel() for value in content["model"].values())


@needs_golden
def test_the_references_checkpoint_is_written_back_as_it_was(golden, tmp_path):
    model = load_comcat(GOLDEN / "comcat_upstream", golden_skeleton(golden))
    save_comcat(model, tmp_path)
    pair = [
        torch.load(folder / "checkpoint.pth", weights_only=False)["model"]
        for folder in (GOLDEN / "comcat_upstream", tmp_path)
    ]
    assert pair[0].keys() == pair[1].keys()
    assert all(torch.equal(value, pair[1][key]) for key, value in pair[0].items())
    ranks = [folder / "ranks.txt" for folder in (GOLDEN / "comcat_upstream", tmp_path)]
    assert ranks[0].read_bytes() == ranks[1].read_bytes()


@needs_golden
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "got '9 ranks', allowed: 13: 4 for each of the model's 3 blocks and 1 for"),
        ({"embed_dim": 144}, r"cls_token: got \(1, 1, 192\), allowed: shape \(1, 1, 144\)"),
        ({"num_heads": 4}, r"blocks\.0\.vo: got 159, allowed: multiples of 4 heads up to 192"),
        (
            {"num_classes": 10},
            r"head.selected_rank_layer.last_factor.weight: got \(200, 64\), "
            r"allowed: shape \(10, its rank\)",
        ),
        ({"num_classes": 0}, "got '9 ranks', allowed: 8: 4 for each of the model's 2 blocks$"),
        ({"init_values": 0.1}, r"lacks blocks\.0\.ls1\.gamma"),
    ],
)
def test_another_model_is_named(golden, options, message):
    with pytest.raises(ValueError, match=message):
        load_comcat(GOLDEN / "comcat_upstream", golden_skeleton(golden, **options))


# Against timm: at full ranks the format holds a dense model.


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_full_ranks_with_biases_are_the_dense_model(tmp_path, name, prefix):
    model, images = dense(name), tiny_images()
    state = {f"{prefix}{key}": value for key, value in reference_state(model).items()}
    optimizer = torch.optim.AdamW(model.parameters())
    folder = write(
        tmp_path,
        state,
        full_ranks(model),
        args=argparse.Namespace(lr=1e-4, model=name),
        optimizer=optimizer.state_dict(),
        scaler={},
        epoch=30,
    )
    read = load_comcat(folder, dense(name, seed=1))
    torch.testing.assert_close(read(images), model(images), rtol=0, atol=2e-5)
    # Of the four biases of attention two are left: keys' vanish, values' have moved.
    assert {k.rpartition("attn.")[2] for k in read.state_dict() if "blocks.0.attn" in k} == {
        "q_bias",
        "qkv.weight",
        "proj.weight",
        "proj.bias",
    }


@pytest.mark.parametrize("missing", ["w_qs", "w_ks", "w_vs", "proj"])
def test_a_bias_that_is_not_there_is_zero(tmp_path, missing):
    model, images = dense(), tiny_images()
    state = reference_state(model)
    width = model.embed_dim
    with torch.no_grad():
        for index, block in enumerate(model.blocks):
            del state[f"blocks.{index}.attn.{LAYER}.{missing}.bias"]
            if missing == "proj":
                block.attn.proj.bias.zero_()
            else:
                start = ("w_qs", "w_ks", "w_vs").index(missing) * width
                block.attn.qkv.bias[start : start + width] = 0
    read = load_comcat(write(tmp_path, state, full_ranks(model)), dense(seed=1))
    torch.testing.assert_close(read(images), model(images), rtol=0, atol=2e-5)


def test_without_attention_biases(tmp_path):
    model, images = dense(qkv_bias=False, proj_bias=False), tiny_images()
    state = reference_state(model, biases=False)
    folder = write(tmp_path, state, full_ranks(model))
    # The skeleton may well have the biases that the search dropped.
    read = load_comcat(folder, dense(seed=1))
    torch.testing.assert_close(read(images), model(images), rtol=0, atol=2e-5)
    assert not [key for key in read.state_dict() if ".attn." in key and "bias" in key]


def test_logits_of_a_search_are_left_out(tmp_path):
    model = dense()
    state = reference_state(model)
    state["blocks.0.attn.qk_rank_alpha"] = torch.ones(5)
    state["head.rank_alpha"] = torch.ones(5)
    read = load_comcat(write(tmp_path, state, full_ranks(model)), dense(seed=1))
    torch.testing.assert_close(read(tiny_images()), model(tiny_images()), rtol=0, atol=2e-5)


# Wrong files.


def drop_block(state):
    return {key: value for key, value in state.items() if not key.startswith("blocks.1.")}


def without(*keys):
    return lambda state: {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_block, r"lacks blocks\.1\.norm1\.weight, .* and \d+ more$"),
        (without(QUERIES), rf"lacks {QUERIES}$"),
        (without(HEAD), rf"lacks {HEAD}$"),
        (lambda s: s | {"blocks.2.norm1.weight": torch.ones(32)}, "has blocks.2.norm1.weight, unk"),
        (
            lambda s: s | {QUERIES: torch.ones(28, 32)},
            rf"{QUERIES}: got \(28, 32\), allowed: shape \(32, 32\)",
        ),
        (lambda s: s | {QUERIES: torch.ones(32)}, rf"{QUERIES}: got \(32,\), allowed: shape \(its"),
        (
            lambda s: s | {"norm.bias": torch.ones(8)},
            r"norm.bias: got \(8,\), allowed: shape",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, change, message):
    model = dense()
    folder = write(tmp_path, change(reference_state(model)), full_ranks(model))
    with pytest.raises(ValueError, match=message) as refused:
        load_comcat(folder, dense(seed=1))
    assert str(folder / "checkpoint.pth") in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "28,32,32,32,32,32,32,32,10",
            rf"{LAYER}.w_qs.weight: got \(32, 32\), allowed: shape \(28,",
        ),
        (
            "32,32,32,32,32,32,32,32",
            "got '8 ranks', allowed: 9: 4 for each of the model's 2 blocks",
        ),
        ("30,32,32,32,32,32,32,32,10", r"blocks\.0\.qk: got 30, allowed: multiples of 4 heads up"),
        ("32,32,0,32,32,32,32,32,10", r"blocks\.0\.fc1: got 0, allowed: 1 to 32$"),
        ("32,32,x,32,32,32,32,32,10", "'x', allowed: integers with commas between"),
    ],
)
def test_wrong_ranks_are_named(tmp_path, text, message):
    model = dense()
    folder = write(tmp_path, reference_state(model), [])
    (folder / "ranks.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_comcat(folder, dense(seed=1))


def test_ranks_as_a_windows_editor_saves_them(tmp_path):
    """A byte order mark is no number; of UTF-16 the message names the file."""
    (tmp_path / "ranks.txt").write_text("12,12,12,12,3", "utf-8-sig")
    assert read_numbers(tmp_path / "ranks.txt") == [12, 12, 12, 12, 3]
    (tmp_path / "ranks.txt").write_bytes("12,12,12,12,3".encode("utf-16"))
    with pytest.raises(ValueError, match=r"/ranks\.txt: 'utf-8' codec .* integers with commas"):
        read_numbers(tmp_path / "ranks.txt")


@pytest.mark.parametrize("name", ["checkpoint.pth", "ranks.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    model = dense()
    (write(tmp_path, reference_state(model), full_ranks(model)) / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}', allowed: a file that exists"):
        load_comcat(tmp_path, model)


# Back and forth.


@pytest.mark.parametrize(
    ("biases", "options"),
    [
        ("exact", {}),
        ("drop", {}),
        ("exact", {"qkv_bias": False}),
        ("exact", {"name": "deit_tiny_distilled_patch16_224"}),
    ],
)
def test_what_is_written_reads_back_exactly(tmp_path, biases, options):
    options = dict(options)
    name = options.pop("name", "vit_tiny_patch16_224")
    method = LowRank(
        dense(name, **options),
        LowRankConfig(biases=biases, keep_dense=("head_dist",) * ("dist" in name)),
    )
    method.commit_(method.default_plan(method.budget(BudgetConfig(reduction=0.4))))
    draw_parameters_(method.model, 3)
    save_comcat(method.model, tmp_path)
    read = load_comcat(tmp_path, dense(name, seed=1, **options))
    assert same_state(read, method.model)
    assert torch.equal(read(tiny_images()), method.model.eval()(tiny_images()))
    assert read_ranks(tmp_path / "ranks.txt", dense(name)).decisions.items() <= (
        plan_of(method.model).decisions.items()
    )


def partly(**decisions):
    method = LowRank(dense(), LowRankConfig())
    plan = method.default_plan(method.budget(BudgetConfig(reduction=0.4)))
    method.commit_(Plan("lowrank", {**plan.decisions, **decisions}))
    return method.model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (dense, r"blocks\.0\.qk: got 'dense', allowed: a factorized site"),
        (lambda: partly(**{"blocks.1.fc2": None}), r"blocks\.1\.fc2: got 'dense'"),
        (lambda: partly(head=None), "head: got 'dense'"),
        (lambda: committed(name="deit_tiny_distilled_patch16_224"), "head_dist: got 4, .*a dense"),
        (lambda: committed(num_classes=0), r"model\.head: got None"),
        (lambda: committed(global_pool="avg", fc_norm=False), r"model\.global_pool: got 'avg'"),
        (lambda: committed(init_values=0.1), r"model: got 'blocks\.0\.ls1\.gamma'"),
        (lambda: committed(reg_tokens=2), "model: got 'reg_token'"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_not_written(tmp_path, build, message):
    with pytest.raises(ValueError, match=message):
        save_comcat(build(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
