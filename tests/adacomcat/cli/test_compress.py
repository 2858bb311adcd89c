"""`adacomcat compress`: its result is a model directory like any other."""

import pytest
import torch

import adacomcat
from adacomcat.cost import count_params
from adacomcat.io.directory import read_config

CLASSES, SIDE = 4, 32
SIZES = {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8, "img_size": SIDE}
SMALL = [part for k, v in SIZES.items() for part in ("--set", f"model.options.{k}={v}")]
MODEL = ["--model", "deit_tiny_patch16_224", *SMALL, "--device", "cpu"]


@pytest.fixture(scope="module")
def compressed(weights, tmp_path_factory):
    from adacomcat.cli.main import main

    folder = tmp_path_factory.mktemp("compressed") / "model"
    words = ["compress", *MODEL, "--weights", str(weights), "--output", str(folder)]
    assert main(words) == 0
    return folder


def test_the_directory_holds_what_the_call_gives(compressed, dense):
    model = adacomcat.load(compressed)
    expected = adacomcat.compress(dense).model
    images = torch.randn(2, 3, SIDE, SIDE)
    torch.testing.assert_close(model(images), expected(images))
    extra = read_config(compressed)["adacomcat"]["extra"]
    assert (
        extra["compress"]["strategy"] == "uniform" and 0.5 <= extra["compress"]["reduction"] < 0.6
    )
    assert extra["dense"]["weights"] == "deit.pth" and len(extra["dense"]["sha256"]) == 64


def test_info_and_eval_take_it(compressed, cli, images, dense):
    found = cli("info", "--from", compressed, "--json").json
    assert found["dense_params"] == count_params(dense) > found["params"]
    assert all(row["rank"] is not None for row in found["sites"])
    scored = cli("eval", "--from", compressed, "--data", images, "--device", "cpu", "--json").json
    assert scored["images"] == 16 and scored["params"] == found["params"]


def test_finetune_takes_it(compressed, cli, images, weights, tmp_path):
    words = ["--data", images, "--weights", weights, "--epochs", 1, "--batch-size", 16]
    words += ["--workers", 0, "--device", "cpu", "--output", tmp_path / "tuned"]
    done = cli("finetune", "--from", compressed, *words)
    assert done.status == 0, done.err
    before, after = (adacomcat.load(folder) for folder in (compressed, tmp_path / "tuned"))
    assert count_params(after) == count_params(before)
    assert not torch.equal(after.head.last.weight, before.head.last.weight)


def test_the_hub_takes_it(compressed, cli, tmp_path):
    done = cli("export", "--from", compressed, "--to", "hub", "--output", tmp_path / "hub")
    assert done.status == 0, done.err
    assert "kept at searched ranks" in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.slow
def test_onnx_takes_it(compressed, cli, tmp_path):
    done = cli("export", "--from", compressed, "--to", "onnx", "--output", tmp_path / "m.onnx")
    assert done.status == 0 and "parity with eager" in done.out


def test_what_it_says(cli, tmp_path):
    words = ["--weights", "random", "--target-reduction", 0.3, "--unit", "macs"]
    done = cli("compress", *MODEL, *words, "--output", tmp_path / "model")
    assert done.status == 0, done.err
    assert "lowrank, uniform plan for 9 sites: 3" in done.out
    assert "of the dense macs removed (at least 30.0% asked)" in done.out
    assert f"next: adacomcat info --from {tmp_path / 'model'}" in done.out


def test_a_folder_of_images_and_an_evaluation(cli, weights, images, dense, tmp_path):
    words = ["--weights", weights, "--images", images / "train", "--count", 12]
    words += ["--evaluate", images / "val", "--target-reduction", 0.4]
    done = cli("compress", *MODEL, *words, "--output", tmp_path / "model")
    assert done.status == 0, done.err
    assert "12 of " in done.out and "lowrank, sensitivity plan for 9 sites: 4" in done.out
    assert "12 images: truncation errs" in done.out + done.err
    extra = read_config(tmp_path / "model")["adacomcat"]["extra"]
    assert extra["compress"]["images"] == 12
    data = ["--data", images, "--device", "cpu", "--json"]
    scored = cli("eval", "--from", tmp_path / "model", *data).json
    assert extra["accuracy"]["compressed"] == scored["accuracy"]
    before = cli("eval", "--model", MODEL[1], *SMALL, "--weights", weights, *data).json
    assert extra["accuracy"]["dense"] == before["accuracy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "nowhere"], "images: got 'nowhere', allowed: a folder of images"),
        (["--count", "0"], "--count: got 0"),
        (["--evaluate", "nowhere"], "--evaluate: got 'nowhere', allowed: a folder with one"),
        (["--strategy", "sensitivity"], "images: got None, allowed: some, with 'sensitivity'"),
        (["--strategy", "sensitive"], "did you mean 'sensitivity'"),
    ],
)
def test_wrong_words_are_refused(cli, tmp_path, words, message):
    done = cli("compress", *MODEL, "--weights", "random", *words, "--output", tmp_path / "model")
    assert done.status == 2 and message in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("method", ["diffrate", "lowrank+diffrate"])
def test_other_methods_by_their_name(cli, tmp_path, method):
    sizes = SIZES | {"patch_size": 4, "depth": 4}
    model = [part for k, v in sizes.items() for part in ("--set", f"model.options.{k}={v}")]
    words = [
        "--weights",
        "random",
        "--method",
        method,
        "--target-reduction",
        0.2,
        "--device",
        "cpu",
    ]
    name = ["--model", "deit_tiny_patch16_224", "--output", tmp_path / "m"]
    done = cli("compress", *name, *model, *words)
    assert done.status == 0, done.err
    found = cli("info", "--from", tmp_path / "m", "--json").json
    assert found["blocks"] and found["macs"] <= 0.8 * found["dense_macs"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target-reduction", "1.2"], "--target-reduction: got 1.2, allowed: between 0 and 1"),
        (
            ["--target-reduction", "0.99"],
            "--target-reduction: got 0.99, allowed: a total of at least",
        ),
        (["--method", "diffrat"], "--method: got 'diffrat' (did you mean 'diffrate'?)"),
        (["--strategy", "uniforn"], "--strategy: got 'uniforn' (did you mean 'uniform'?)"),
        (
            ["--set", "search.lr=1"],
            "--set search.lr: got 1, allowed: model.options.X=Y, method.X=Y",
        ),
        (["--weights", "missing.pth"], "--weights: got"),
        (["--unit", "grams"], "--unit: got 'grams', allowed: params, macs"),
    ],
)
def test_what_cannot_be_is_refused(cli, tmp_path, words, message):
    start = [] if "--weights" in words else ["--weights", "random"]
    done = cli("compress", *MODEL, *start, *words, "--output", tmp_path / "model")
    assert done.status == 2 and f"error: {message}" in done.err
    assert done.err.count("\n") == 1 and not (tmp_path / "model").exists()
