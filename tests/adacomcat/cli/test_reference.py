"""Folders of the reference implementation, and its published ranks, through the command line."""

import json

import pytest
import torch

import adacomcat
from adacomcat.cli.sources import comcat_model
from adacomcat.io.run import Run
from adacomcat.testing.golden import Numbers, golden_folder, reference_rows
from adacomcat.testing.images import write_image_folder

GOLDEN = Numbers.read("comcat_core.npz")
FOLDER = golden_folder() / "comcat_upstream"
NAME = "deit_tiny_patch16_224"

golden = pytest.mark.skipif(
    not (GOLDEN and FOLDER.is_dir()), reason=f"no reference checkpoint with numbers at {FOLDER}"
)


@pytest.fixture
def options():
    """Of the dense model: the sizes that the checkpoint does not tell."""
    width, _, heads, *_ = GOLDEN["geometry"].tolist()
    return {"embed_dim": width, "num_heads": heads}


@pytest.fixture
def given(options):
    """The checkpoint and its model, in words of the command line."""
    words = ["--comcat-dir", FOLDER, "--model", NAME]
    for name, value in options.items():
        words += ["--set", f"model.options.{name}={value}"]
    return words


@golden
def test_convert_gives_the_reference_s_logits(cli, given, tmp_path):
    done = cli("convert", *given, "--output", tmp_path / "ours")
    assert done.status == 0, done.err
    x, expected = GOLDEN["x"], GOLDEN["ranked_logits"]
    scale = expected.abs().max()
    found = adacomcat.load(tmp_path / "ours")(x)
    torch.testing.assert_close(found / scale, expected.float() / scale, rtol=0, atol=1e-4)


@golden
def test_info_counts_the_reference_s_checkpoint(cli, given):
    found = cli("info", *given, "--json").json
    ranks = [int(rank) for rank in (FOLDER / "ranks.txt").read_text().split(",")]
    assert [row["rank"] for row in found["sites"]] == ranks
    content = torch.load(FOLDER / "checkpoint.pth", weights_only=False)
    assert found["params"] == sum(value.numel() for value in content["model"].values())


@golden
def test_eval_of_the_reference_s_checkpoint(cli, given, options, tmp_path):
    """Loss and accuracy of the very model, on images of its size and its number of classes."""
    classes, side = GOLDEN["geometry"].tolist()[3:5]
    data = write_image_folder(tmp_path / "data", classes=classes, train=3, val=1, side=side)
    words = ["--data", data, "--device", "cpu", "--workers", 0]
    found = cli("eval", *given, *words, "--json").json
    model, _ = comcat_model(FOLDER, NAME, options)
    assert found["images"] == classes and found["params"] == sum(
        p.numel() for p in model.parameters()
    )
    assert 0 < found["loss"] < 20
    # The same out of our own directory, whose images are described in it.
    cli("convert", *given, "--output", tmp_path / "ours")
    again = cli("eval", "--from", tmp_path / "ours", *words, "--json").json
    assert again["loss"] == pytest.approx(found["loss"], abs=1e-6)


@golden
def test_eval_refuses_other_classes(cli, given, tmp_path):
    classes, side = GOLDEN["geometry"].tolist()[3:5]
    data = write_image_folder(tmp_path, classes=classes + 1, train=3, val=1, side=side)
    done = cli("eval", *given, "--data", data, "--device", "cpu")
    assert done.status == 2
    assert f"classes: got {classes + 1}, allowed: {classes}" in done.err


def test_a_finetune_of_a_converted_model(cli, dense, searched, weights, images, tmp_path):
    """Data and teacher are given; what is missing is named."""
    there, ours, tuned = tmp_path / "comcat", tmp_path / "ours", tmp_path / "tuned"
    cli("convert", "--from", searched, "--to", "comcat", "--output", there)
    wide = ["--model", NAME, "--set", "model.options.embed_dim=48"]
    assert cli("convert", "--comcat-dir", there, *wide, "--output", ours).status == 0
    words = [
        "finetune",
        "--from",
        ours,
        "--output",
        tuned,
        "--epochs",
        1,
        "--batch-size",
        16,
        "--device",
        "cpu",
        "--workers",
        0,
        "--set",
        "search.batch_size=8",
    ]
    assert "--data" in cli(*words).err
    assert "--weights" in cli(*words, "--data", images).err
    done = cli(*words, "--data", images, "--weights", weights)
    assert done.status == 0, done.err
    assert (
        Run(tuned).record()["summary"]["plan"]
        == json.loads((ours / "plan.json").read_text())["decisions"]
    )


@pytest.mark.parametrize(("epoch", "params"), [(1, 11_114_856), (16, 10_991_976)])
def test_the_published_deit_small(cli, tmp_path, epoch, params):
    rows = reference_rows("published_deit_small_ranks.csv")
    ranks = [row["rank"] for row in rows if int(row["epoch"]) == epoch]
    (tmp_path / "ranks.txt").write_text(",".join(ranks))
    words = ["info", "--model", "deit_small_patch16_224", "--ranks", tmp_path / "ranks.txt"]
    found = cli(*words, "--biases", "drop", "--json").json
    assert found["params"] == params and found["dense_params"] == 22_050_664
    # Exact biases add one to every row of the queries, and one to every output.
    exact = cli(*words, "--biases", "exact", "--json").json["params"]
    queries = sum(int(rank) for rank in ranks[:-1:4])
    assert exact == params + queries + 12 * 384
