"""`export` on what a search has left; the other forms' own tests are those of interop."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import adacomcat
from adacomcat.cli.main import main, parse
from adacomcat.io.run import Run
from adacomcat.testing.models import tiny_images

SIDE = 32


@pytest.fixture(scope="module")
def noise():
    return tiny_images(4, side=SIDE)


@pytest.fixture(scope="module")
def logits(searched, noise):
    with torch.no_grad():
        return adacomcat.load(searched)(noise)


@pytest.mark.slow
def test_to_onnx(searched, cli, tmp_path, noise, logits):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "new" / "model.onnx"
    done = cli("export", "--from", searched, "--to", "onnx", "--output", path)
    assert done.status == 0, done.err
    assert "parity with eager, ONNX Runtime" in done.out and f"written to {path}" in done.out
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": noise.numpy()})
    np.testing.assert_allclose(found, logits.numpy(), rtol=0, atol=1e-4)
    notes = session.get_modelmeta().custom_metadata_map
    for name in ("config.json", "plan.json"):
        assert json.loads(notes[name]) == json.loads((searched / name).read_text())


def test_to_torch_export(searched, cli, tmp_path, noise, logits):
    path = tmp_path / "model.pt2"
    done = cli("export", "--from", searched, "--to", "torch-export", "--output", path)
    assert done.status == 0, done.err
    assert "parity with eager, PyTorch" in done.out
    found = torch.export.load(path).module()(noise)
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-4)


def test_to_the_hub(searched, cli, tmp_path, noise, logits):
    folder = tmp_path / "hub"
    done = cli("export", "--from", searched, "--to", "hub", "--output", folder)
    assert done.status == 0, done.err
    assert f"next: hf upload USER/REPOSITORY {folder}" in done.out
    assert torch.equal(adacomcat.load(folder)(noise), logits)
    for name in ("config.json", "plan.json"):
        assert (folder / name).read_text() == (searched / name).read_text()
    ours, theirs = (load_file(f / "model.safetensors") for f in (folder, searched))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs | ours)
    run = Run(searched).record()
    summary, provenance = run["summary"], run["provenance"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results[0].metric_value == summary["test_acc"]
    for fact in (
        f"{summary['params']:,} | {summary['dense_params']:,}",
        f"{summary['macs']:,} | {summary['dense_macs']:,}",
        f"{summary['dense_test_acc']:.2%}",
        provenance["split_hashes"]["search"],
        run["started"],
        f"torch {provenance['versions']['torch']}",
        "| dense weights | `deit.pth` |",
        "| epochs | `2` |",
        *(f"| {site} | {rank} |" for site, rank in summary["plan"].items()),
    ):
        assert fact in card.text
    # Where files lie on this machine is nobody's business.
    assert run["config"]["data"]["root"] not in card.content
    assert str(searched) not in card.content


def test_a_model_without_a_run(searched, cli, tmp_path):
    source = tmp_path / "source"
    adacomcat.save(adacomcat.load(searched), source)
    done = cli("export", "--from", source, "--to", "hub", "--output", tmp_path / "hub")
    assert done.status == 0, done.err
    assert "Its accuracy is not on record." in (tmp_path / "hub" / "README.md").read_text()


def test_what_leaked_is_said(searched, cli, tmp_path):
    source = shutil.copytree(searched, tmp_path / "source")
    record = Run(source).record()
    Run(source).write(record | {"leakage": ["search"]})
    done = cli("export", "--from", source, "--to", "hub", "--output", tmp_path / "hub")
    assert "LEAKAGE: the rank search saw" in done.out
    assert "**LEAKAGE: the rank search saw" in (tmp_path / "hub" / "README.md").read_text()


# What is refused.

FORMS = {"onnx": "model.onnx", "torch-export": "model.pt2", "hub": "hub"}


def unfinished(folder):
    Run(folder).update("interrupted")


def cut(name):
    def change(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])

    return change


@pytest.mark.parametrize("to", FORMS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unfinished, "not finished; to go on: adacomcat search --resume"),
        (cut("trial.json"), "trial.json: not JSON"),
        (cut("config.json"), "config.json: damaged"),
        (cut("plan.json"), "plan.json: no plan, or a damaged one"),
        (cut("model.safetensors"), "model.safetensors: not the weights"),
        (shutil.rmtree, "config.json: missing"),
    ],
)
def test_a_directory_that_is_no_finished_model(searched, cli, tmp_path, to, damage, message):
    source = shutil.copytree(searched, tmp_path / "source")
    damage(source)
    output = tmp_path / "out" / FORMS[to]
    done = cli("export", "--from", source, "--to", to, "--output", output)
    assert done.status == 2
    assert done.err.startswith("error: ") and message in done.err and done.err.count("\n") == 1
    assert not output.parent.exists()


@pytest.mark.parametrize("to", FORMS)
def test_an_output_that_is_there(searched, cli, tmp_path, to):
    output = tmp_path / FORMS[to]
    output.write_text("mine")
    done = cli("export", "--from", searched, "--to", to, "--output", output)
    assert done.status == 2 and "--output: got" in done.err and "allowed: a new" in done.err
    assert output.read_text() == "mine"


def test_the_folder_of_a_run_is_no_place_for_the_hub(searched, cli):
    done = cli("export", "--from", searched, "--to", "hub", "--output", searched)
    assert done.status == 2 and done.err.endswith("allowed: a new directory\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--from x --to onnx --output m.pt2", "--output: got 'm.pt2', allowed: .* ends in .onnx"),
        ("--from x --to torch-export --output m", "--output: got 'm', allowed: .* ends in .pt2"),
    ],
)
def test_a_name_that_says_something_else(words, message):
    with pytest.raises(ValueError, match=message):
        parse(["export", *words.split()])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--from x --to tflite --output m", "invalid choice: 'tflite'"),
        ("--from x --output m", "--to"),
        ("--to hub --output m", "--from"),
    ],
)
def test_what_argparse_refuses(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *words.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
