import argparse

import pytest
import torch

from adacomcat.config import BudgetConfig
from adacomcat.cost import count_params
from adacomcat.io.comcat import load_comcat, read_numbers, read_ranks, save_comcat
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.spec import plan_of
from adacomcat.plan import Plan
from adacomcat.testing.golden import Numbers, comcat_vit, golden_folder
from adacomcat.testing.models import draw_parameters_, tiny_images, tiny_vit

GOLDEN = Numbers.read("comcat_core.npz")
UPSTREAM = golden_folder() / "comcat_upstream"
needs_golden = pytest.mark.skipif(
    not (GOLDEN and UPSTREAM.is_dir()), reason=f"no reference checkpoint with numbers at {UPSTREAM}"
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


def golden_skeleton(**options):
    return comcat_vit(GOLDEN["geometry"], **options)


def stored_state():
    return torch.load(UPSTREAM / "checkpoint.pth", weights_only=False)["model"]


@needs_golden
@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_the_references_checkpoint_gives_its_logits(where):
    with torch.device(where):
        skeleton = golden_skeleton()
    model = load_comcat(UPSTREAM, skeleton)
    assert not model.training
    with torch.no_grad():
        logits = model(GOLDEN["x"])
    torch.testing.assert_close(logits, GOLDEN["ranked_logits"], rtol=0, atol=1e-4)


@needs_golden
def test_the_references_checkpoint_has_its_ranks():
    model = load_comcat(UPSTREAM, golden_skeleton())
    assert list(plan_of(model).decisions.values()) == GOLDEN["ranks"].tolist()


@needs_golden
def test_the_references_checkpoint_has_its_size():
    model = load_comcat(UPSTREAM, golden_skeleton())
    assert count_params(model) == sum(value.numel() for value in stored_state().values())


@needs_golden
def test_the_references_checkpoint_is_written_back_as_it_was(tmp_path):
    save_comcat(load_comcat(UPSTREAM, golden_skeleton()), tmp_path)
    stored = stored_state()
    written = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["model"]
    assert stored.keys() == written.keys()
    assert all(torch.equal(value, written[key]) for key, value in stored.items())
    assert (UPSTREAM / "ranks.txt").read_bytes() == (tmp_path / "ranks.txt").read_bytes()


def other_models():
    """(options, message): models that the reference's checkpoint is not of."""
    if not {"geometry", "ranks"} <= GOLDEN.keys():
        return
    width, depth, heads, classes, *_ = GOLDEN["geometry"].tolist()
    *ranks, last = GOLDEN["ranks"].tolist()
    count = f"got '{len(ranks) + 1} ranks', allowed: "
    yield {"depth": depth + 1}, rf"{count}{4 * depth + 5}: 4 for each .* {depth + 1} blocks and 1"
    yield {"num_classes": 0}, rf"{count}{4 * depth}: 4 for each of the model's {depth} blocks$"
    wide = width + 2 * heads
    yield (
        {"embed_dim": wide},
        rf"cls_token: got \(1, 1, {width}\), allowed: shape \(1, 1, {wide}\)",
    )
    yield (
        {"num_classes": classes + 1},
        rf"head.selected_rank_layer.last_factor.weight: got \({classes}, {last}\), "
        rf"allowed: shape \({classes + 1}, its rank\)",
    )
    yield {"init_values": 0.1}, r"lacks blocks\.0\.ls1\.gamma"
    # Ranks of attention are multiples of the heads; each block has four, two of which are these.
    found = [(row, ranks[row]) for row in range(len(ranks)) if row % 4 < 2]
    for other in range(1, width + 1):
        wrong = [(row, rank) for row, rank in found if rank % other]
        if width % other == 0 and wrong:
            row, rank = wrong[0]
            name = rf"blocks\.{row // 4}\.{('qk', 'vo')[row % 4]}"
            message = rf"{name}: got {rank}, allowed: multiples of {other} heads up to {width}"
            yield {"num_heads": other}, message
            return


@needs_golden
@pytest.mark.parametrize(("options", "message"), list(other_models()))
def test_another_model_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_comcat(UPSTREAM, golden_skeleton(**options))


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
