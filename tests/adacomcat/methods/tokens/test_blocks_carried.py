"""A model that drops tokens is carried elsewhere: other types, copies, graphs, files."""

import copy
import pickle

import pytest
import torch
from torch import nn

from adacomcat.config import BudgetConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of
from adacomcat.testing.models import tiny_images, tiny_vit

POOLED = {"global_pool": "avg", "fc_norm": True, "class_token": False}
MODELS = {
    "class token": {},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "no class token": POOLED,
    "low-rank": {},
}
# Each takes a while, and the others differ in numbers alone.
GRAPHS = pytest.mark.parametrize("kind", ["no class token", "low-rank"])
DYNAMIC = {0: torch.export.Dim("batch", min=1, max=1024)}


def built(kind="class token"):
    """Four blocks: the first and third change nothing, before and after a merge."""
    model = tiny_vit(depth=4, **MODELS[kind])
    if kind == "low-rank":
        method = LowRank(model, LowRankConfig())
        method.commit_(method.default_plan(method.budget(BudgetConfig(reduction=0.4))))
    form = tokens_of(model)
    merge = tuple(n and n + form.prefix for n in (None, 9, None, 3))
    prune = tuple(n and n + form.prefix for n in (None, 12, None, 6))
    model.blocks = TokenBlocks(model.blocks.children(), Rates(prune, merge), form)
    return model.eval()


@pytest.fixture(params=MODELS)
def model(request):
    return built(request.param)


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def same_choices(model, other, images):
    """Whether two models stand for the same patches; else logits cannot be compared."""
    found = []
    for each in (model, other):
        x = each._pos_embed(each.patch_embed(images.to(each.patch_embed.proj.weight.dtype)))
        found.append(each.blocks.trace(x)[-1])
    return (found[0] == found[1]).all((1, 2))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_run(model, dtype):
    images, half = tiny_images(64), copy.deepcopy(model).to(dtype)
    logits = half(images.to(dtype))
    assert logits.dtype == dtype and logits.isfinite().all()
    same = same_choices(model, half, images)
    # Rounded scores choose other tokens where two are nearly as important.
    assert same.sum() >= 8
    expected = model(images)[same]
    close(logits[same].float(), expected, atol=0.1 * float(expected.abs().max()))


def test_sizes_are_in_float32_in_every_precision():
    model, images = built(), tiny_images()
    x = model._pos_embed(model.patch_embed(images))
    _, expected, _ = model.blocks.run(x)
    _, half, _ = copy.deepcopy(model).bfloat16().blocks.run(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        tokens, mixed, _ = model.blocks.run(x)
    assert expected.dtype == half.dtype == mixed.dtype == tokens.dtype == torch.float32


def test_autocast_runs(model):
    images = tiny_images(64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images).float()
    error = (logits - model(images)).abs().amax(1)
    # But for images in which other tokens were chosen.
    assert logits.isfinite().all() and error.median() < 0.1


def test_names_and_parameters_are_those_of_the_dense_model():
    dense, model = tiny_vit(depth=4), built()
    expected, found = dense.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert isinstance(model.blocks, nn.Sequential)
    assert [type(block) for block in model.blocks] == [type(block) for block in dense.blocks]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_compute_the_same(model, way):
    model(tiny_images())
    assert torch.equal(way(model)(tiny_images()), model(tiny_images()))


def test_a_copy_can_be_made_in_the_middle_of_training(model):
    model(tiny_images()).sum().backward()
    copy.deepcopy(model)


@pytest.mark.slow
@GRAPHS
def test_it_compiles_as_one_graph(kind):
    model = built(kind)
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    # Not 3, which would be taken for the number of channels.
    for count in (4, 5, 8):
        close(compiled(tiny_images(count)), model(tiny_images(count)), atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.slow
@GRAPHS
def test_it_is_exported_for_every_batch_size(kind):
    model = built(kind)
    program = torch.export.export(model, (tiny_images(3),), dynamic_shapes=(DYNAMIC,))
    for count in (1, 2, 7):
        close(program.module()(tiny_images(count)), model(tiny_images(count)), atol=1e-5)


@pytest.mark.slow
@GRAPHS
def test_onnx_runtime_gives_the_same_logits(kind, tmp_path):
    model = built(kind)
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(
        model, (tiny_images(3),), path, dynamo=True, dynamic_shapes=(DYNAMIC,), verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        (logits,) = session.run(None, {session.get_inputs()[0].name: tiny_images(count).numpy()})
        close(torch.from_numpy(logits), model(tiny_images(count)), atol=1e-4)
