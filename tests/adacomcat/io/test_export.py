import importlib.util
import json
import subprocess
import sys

import pytest
import timm
import torch

from adacomcat.io import export
from adacomcat.io.directory import load, read_config, read_plan
from adacomcat.io.export import compare, export_hub, export_onnx, export_program
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_images, tiny_vit

DISTILLED = "deit_tiny_distilled_patch16_224"
TINY = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 10,
}
"""Of `tiny_vit`."""
BATCHES = (1, 2, 7)
"""None of them is traced."""


def committed(name="vit_tiny_patch16_224", share=2, **options):
    """A model at half of every rank."""
    model = tiny_vit(name, **options)
    method = LowRank(model, LowRankConfig())
    ranks = {s.name: max(1, s.full // share // s.groups) * s.groups for s in method.sites}
    plan = Plan("lowrank", ranks)
    method.commit_(plan)
    return model.eval(), plan


MODELS = {
    "committed": lambda: committed()[0],
    "distilled": lambda: committed(DISTILLED)[0],
    "dense": tiny_vit,
}


@pytest.fixture(scope="module", params=MODELS)
def written(request, tmp_path_factory):
    """A model, its ONNX file and what the export said."""
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = MODELS[request.param]()
    return model, path, export_onnx(model, path, {"plan.json": '{"a": 1}'})


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch-export", "hub"])
def test_a_full_disk_is_an_error_that_leaves_nothing(disk_of, tmp_path, form):
    """Writers of other libraries abort the process, or leave half a file."""
    model, path = tiny_vit().eval(), tmp_path / "out"
    model.model_args = TINY
    write = {
        "onnx": lambda: export_onnx(model, path),
        "torch-export": lambda: export_program(model, path),
        "hub": lambda: export_hub(model, path, "card"),
    }
    if form == "onnx":
        pytest.importorskip("onnxscript")
    with disk_of(2000), pytest.raises(OSError, match="File too large"):
        write[form]()
    assert list(tmp_path.iterdir()) == []


# ONNX.


@pytest.mark.slow
def test_onnx_runtime_gives_the_model_s_logits(written):
    runtime = pytest.importorskip("onnxruntime")
    model, path, exported = written
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in BATCHES:
        images = tiny_images(count, seed=count)
        (logits,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=0, atol=1e-4)
    assert exported.runtime == f"ONNX Runtime {runtime.__version__}"
    assert session.get_modelmeta().custom_metadata_map["plan.json"] == '{"a": 1}'
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_the_file_is_what_onnx_allows(written):
    onnx = pytest.importorskip("onnx")
    _, path, exported = written
    onnx.checker.check_model(path, full_check=True)
    found = onnx.load(path)
    assert exported.form == f"ONNX, opset {found.opset_import[0].version}"
    for value, sizes in ((found.graph.input, [3, 16, 16]), (found.graph.output, [10])):
        (tensor,) = value
        batch, *rest = tensor.type.tensor_type.shape.dim
        assert batch.dim_param == "batch" and [size.dim_value for size in rest] == sizes
    assert [v.name for v in (*found.graph.input, *found.graph.output)] == ["images", "logits"]


@pytest.mark.slow
def test_without_a_runtime_the_export_says_so(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    hide(monkeypatch, "onnxruntime")
    exported = export_onnx(tiny_vit(depth=1), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").is_file()
    assert exported.runtime is None and not exported.differences
    assert exported.describe().endswith("not checked; for that: pip install onnxruntime")


def test_a_missing_package_is_one_line_with_its_command(tmp_path, monkeypatch):
    hide(monkeypatch, "onnx", "onnxscript")
    with pytest.raises(ValueError, match=r"^onnx, onnxscript: .*: pip install onnx onnxscript$"):
        export_onnx(tiny_vit(), tmp_path / "model.onnx")


def test_what_one_file_cannot_hold_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(export, "ONNX_LIMIT_BYTES", 1000)
    with pytest.raises(ValueError, match=r"model: weights: got '\d+ bytes', allowed: below 1000"):
        export_onnx(tiny_vit(), tmp_path / "model.onnx")


def hide(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in names else find(name, *a)
    )


# torch.export.


@pytest.mark.slow
def test_a_program_runs_without_this_package(tmp_path):
    notes = {"config.json": json.dumps({"names": ["\u00e4", "b"]})}
    pairs = {}
    for name, build in MODELS.items():
        model, path = build(), tmp_path / f"{name}.pt2"
        exported = export_program(model, path, notes)
        assert exported.differences.keys() == set(export.COMPARED)
        images = [tiny_images(count, seed=count) for count in BATCHES]
        with torch.no_grad():
            pairs[str(path)] = [(x, model(x)) for x in images]
    torch.save(pairs, tmp_path / "pairs.pth")
    code = (
        "import json, sys, torch\n"
        "for path, pairs in torch.load(sys.argv[1]).items():\n"
        "    notes = {'config.json': ''}\n"
        "    run = torch.export.load(path, extra_files=notes).module()\n"
        "    for x, y in pairs:\n"
        "        torch.testing.assert_close(run(x), y, rtol=0, atol=1e-4)\n"
        "    assert json.loads(notes['config.json']) == {'names': ['\u00e4', 'b']}\n"
        "assert not {'adacomcat', 'timm'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pairs.pth")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_model_stays_as_it_is(tmp_path):
    model, _ = committed("vit_tiny_patch16_224", depth=1, drop_rate=0.5, proj_drop_rate=0.5)
    with torch.no_grad():
        expected = model(tiny_images(3))
    model.train()
    model.norm.eval()
    export_program(model, tmp_path / "model.pt2")
    assert model.training and model.head_drop.training and not model.norm.training
    assert all(p.requires_grad for p in model.parameters())
    # Dropout is not in the file.
    run = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(run(tiny_images(3)), expected)


# The folder for the hub.


def test_a_hub_folder_is_a_model_with_a_card(tmp_path):
    model, plan = committed(DISTILLED)
    model.model_args = TINY
    exported = export_hub(model, tmp_path / "hub", "# Card\n", plan=plan, extra={"a": 1})
    files = {path.name for path in (tmp_path / "hub").iterdir()}
    assert files == {"config.json", "model.safetensors", "plan.json", "README.md"}
    assert (tmp_path / "hub" / "README.md").read_text() == "# Card\n"
    assert torch.equal(load(tmp_path / "hub")(tiny_images(3)), model(tiny_images(3)))
    assert read_plan(tmp_path / "hub") == plan
    assert read_config(tmp_path / "hub")["adacomcat"]["extra"] == {"a": 1}
    assert max(exported.differences.values()) == 0
    with pytest.raises(OSError):
        export_hub(model, tmp_path / "hub", "# Another\n", plan=plan)
    assert (tmp_path / "hub" / "README.md").read_text() == "# Card\n"
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y + 2e-4, r"Some: logits of 1 images: got 'a difference of 0\.00.*0\.0001"),
        (lambda y: y * float("nan"), "a difference of nan"),
        (lambda y: y[:1], r"logits of 3 images: got \(1, 10\), allowed: shape \(3, 10\)"),
    ],
)
def test_other_logits_are_found(change, message):
    model = tiny_vit()
    with pytest.raises(ValueError, match=message):
        compare(model, lambda images: change(model(images)), "Some")


def test_small_differences_are_told():
    model = tiny_vit()
    found = compare(model, lambda images: model(images) + 1e-5 * len(images), "Some")
    assert found == pytest.approx({1: 1e-5, 3: 3e-5, 5: 5e-5}, rel=0.1)


def test_nothing_is_left_of_a_file_that_is_not_the_model(tmp_path, monkeypatch):
    class Other:
        def module(self):
            return lambda images: torch.zeros(len(images), 10)

    monkeypatch.setattr(torch.export, "load", lambda file: Other())
    with pytest.raises(ValueError, match="PyTorch .*: logits of 1 images"):
        export_program(tiny_vit(depth=1), tmp_path / "folder" / "model.pt2")
    assert not (tmp_path / "folder").exists()


def searchable():
    model = tiny_vit()
    LowRank(model, LowRankConfig()).prepare_()
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: timm.create_model("resnet18"), "model: got 'ResNet'"),
        (lambda: tiny_vit().half(), r"model: parameters: got 'float16', allowed: float32"),
        (searchable, r"blocks\.0\.attn: got "),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path, build, message):
    for write in (export_program, export_hub):
        with pytest.raises(ValueError, match=message):
            write(build(), tmp_path / "out", *["card"] * (write is export_hub))
    assert not list(tmp_path.iterdir())
