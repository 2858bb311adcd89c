"""Folders of the reference implementation, and its published ranks, through the command line."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import adacomcat
from adacomcat.cli.sources import comcat_model
from adacomcat.io.run import Run
from adacomcat.testing.images import write_image_folder

SHARED = Path(__file__).parents[4] / "shared"
GOLDEN = Path(os.environ.get("ADACOMCAT_GOLDEN", SHARED / "golden"))
FOLDER = GOLDEN / "comcat_upstream"
PUBLISHED = SHARED / "reference" / "published_deit_small_ranks.csv"
MODEL = ["--model", "deit_tiny_patch16_224"]

golden = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no reference checkpoint at {FOLDER}")


@golden
def test_convert_gives_the_reference_s_logits(cli, tmp_path):
    done = cli("convert", "--comcat-dir", FOLDER, *MODEL, "--output", tmp_path / "ours")
    assert done.status == 0, done.err
    with np.load(GOLDEN / "comcat_core.npz") as arrays:
        x, expected = (torch.from_numpy(arrays[name]) for name in ("x", "ranked_logits"))
    scale = expected.abs().max()
    found = adacomcat.load(tmp_path / "ours")(x)
    torch.testing.assert_close(found / scale, expected.float() / scale, rtol=0, atol=1e-4)


@golden
def test_info_counts_the_reference_s_checkpoint(cli):
    found = cli("info", "--comcat-dir", FOLDER, *MODEL, "--json").json
    ranks = [int(rank) for rank in (FOLDER / "ranks.txt").read_text().split(",")]
    assert [row["rank"] for row in found["sites"]] == ranks
    content = torch.load(FOLDER / "checkpoint.pth", weights_only=False)
    assert found["params"] == sum(value.numel() for value in content["model"].values())


@golden
def test_eval_of_the_reference_s_checkpoint(cli, tmp_path):
    """Loss and accuracy of the very model, on images of its size and its number of classes."""
    data = write_image_folder(tmp_path / "data", classes=200, train=3, val=1, side=32)
    words = ["--comcat-dir", FOLDER, *MODEL, "--data", data, "--device", "cpu", "--workers", 0]
    found = cli("eval", *words, "--json").json
    model, _ = comcat_model(FOLDER, MODEL[1], {})
    assert found["images"] == 200 and found["params"] == sum(p.numel() for p in model.parameters())
    assert 0 < found["loss"] < 20
    # The same out of our own directory, whose images are described in it.
    cli("convert", "--comcat-dir", FOLDER, *MODEL, "--output", tmp_path / "ours")
    again = cli("eval", "--from", tmp_path / "ours", *words[4:], "--json").json
    assert again["loss"] == pytest.approx(found["loss"], abs=1e-6)


@golden
def test_eval_refuses_other_classes(cli, images, tmp_path):
    done = cli("eval", "--comcat-dir", FOLDER, *MODEL, "--data", images, "--device", "cpu")
    assert done.status == 2
    assert "classes: got 4, allowed: 200" in done.err


@golden
def test_a_finetune_of_a_converted_model(cli, dense, searched, weights, images, tmp_path):
    """Data and teacher are given; what is missing is named."""
    there, ours, tuned = tmp_path / "comcat", tmp_path / "ours", tmp_path / "tuned"
    given = ["--model", "deit_tiny_patch16_224"]
    cli("convert", "--from", searched, "--to", "comcat", "--output", there)
    wide = [*given, "--set", "model.options.embed_dim=48"]
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


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"no published ranks at {PUBLISHED}")
@pytest.mark.parametrize(("epoch", "params"), [(1, 11_114_856), (16, 10_991_976)])
def test_the_published_deit_small(cli, tmp_path, epoch, params):
    with PUBLISHED.open() as file:
        ranks = [row["rank"] for row in csv.DictReader(file) if int(row["epoch"]) == epoch]
    (tmp_path / "ranks.txt").write_text(",".join(ranks))
    words = ["info", "--model", "deit_small_patch16_224", "--ranks", tmp_path / "ranks.txt"]
    found = cli(*words, "--biases", "drop", "--json").json
    assert found["params"] == params and found["dense_params"] == 22_050_664
    # Exact biases add one to every row of the queries, and one to every output.
    exact = cli(*words, "--biases", "exact", "--json").json["params"]
    queries = sum(int(rank) for rank in ranks[:-1:4])
    assert exact == params + queries + 12 * 384
