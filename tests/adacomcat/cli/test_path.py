"""From dense weights and a folder of JPEGs to a finetuned model, through every command."""

import json
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file

import adacomcat
from adacomcat.cost import count_params
from adacomcat.io.run import Run

CLASSES, SIDE = 4, 32
MODEL_FILES = {"model.safetensors", "plan.json", "config.json"}
TRACE = {"trial.json", "trial.log", "checkpoint", "epochs.jsonl", "searches.jsonl"}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_search_leaves_its_trace_and_a_model(searched, dense):
    assert {path.name for path in searched.iterdir()} >= MODEL_FILES | TRACE
    assert [row["epoch"] for row in rows(searched / "epochs.jsonl")] == [0, 1]
    assert [row["epoch"] for row in rows(searched / "searches.jsonl")] == [1]
    run = Run(searched).record()
    assert run["command"]["name"] == "search" and "--weights" in run["command"]["argv"]
    assert run["status"] == "finished" and run["leakage"] == []
    assert run["provenance"]["versions"]["torch"] == version("torch")
    summary = run["summary"]
    model = adacomcat.load(searched)
    assert not model.training
    assert count_params(model) == summary["params"] < summary["dense_params"]
    assert summary["dense_params"] == count_params(dense)
    assert model(torch.zeros(2, 3, SIDE, SIDE)).shape == (2, CLASSES)


def test_eval_says_what_the_search_said(searched, cli):
    summary = Run(searched).record()["summary"]
    found = cli("eval", "--from", searched, "--device", "cpu", "--json").json
    assert found["accuracy"] == summary["test_acc"] and found["images"] == 16
    assert found["loss"] == pytest.approx(summary["test_loss"], rel=1e-4)
    val = cli("eval", "--from", searched, "--device", "cpu", "--split", "val", "--json").json
    last = rows(searched / "epochs.jsonl")[-1]
    assert val["accuracy"] == last["val_acc"]
    assert val["loss"] == pytest.approx(last["val_loss"], rel=1e-3)


def test_eval_of_the_dense_model(asked, searched, cli):
    summary = Run(searched).record()["summary"]
    plain = asked[: asked.index("--target-reduction")]
    found = cli("eval", *plain, "--workers", 0, "--device", "cpu", "--json").json
    assert found["accuracy"] == summary["dense_test_acc"]
    assert found["params"] == summary["dense_params"]
    assert found["macs"] == summary["dense_macs"]


def test_info_counts_what_pytorch_counts(searched, cli):
    found = cli("info", "--from", searched, "--json").json
    model = adacomcat.load(searched)
    plan = json.loads((searched / "plan.json").read_text())["decisions"]
    assert found["params"] == sum(p.numel() for p in model.parameters())
    assert {row["site"]: row["rank"] for row in found["sites"]} == plan
    # Two factors of one site hold what the table says.
    head = {name: p for name, p in model.named_parameters() if name.startswith("head.")}
    weights = sum(p.numel() for name, p in head.items() if name.endswith("weight"))
    assert found["sites"][-1]["params"] == weights
    text = cli("info", "--from", searched).out
    assert f"{found['params']:,}" in text and "blocks.1.fc2" in text


def test_a_finetune_keeps_the_ranks_and_the_teacher(searched, tmp_path, cli):
    before = load_file(searched / "model.safetensors")
    tuned = tmp_path / "tuned"
    done = cli(
        "finetune",
        "--from",
        searched,
        "--output",
        tuned,
        "--epochs",
        2,
        "--batch-size",
        16,
        "--device",
        "cpu",
    )
    assert done.status == 0, done.err
    assert (tuned / "plan.json").read_text() == (searched / "plan.json").read_text()
    summary, first = (Run(f).record()["summary"] for f in (tuned, searched))
    assert summary["dense_test_acc"] == first["dense_test_acc"]
    assert summary["searches"] == 0
    assert [row["phase"] for row in rows(tuned / "epochs.jsonl")] == ["finetune"] * 2
    after = load_file(tuned / "model.safetensors")
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert all(
        torch.equal(before[n], t) for n, t in load_file(searched / "model.safetensors").items()
    )
    assert (
        cli("eval", "--from", tuned, "--device", "cpu", "--json").json["accuracy"]
        == summary["test_acc"]
    )


def test_to_the_reference_s_format_and_back(searched, tmp_path, cli):
    there, back = tmp_path / "comcat", tmp_path / "back"
    assert cli("convert", "--from", searched, "--to", "comcat", "--output", there).status == 0
    assert {path.name for path in there.iterdir()} == {"checkpoint.pth", "ranks.txt"}
    given = [
        "--comcat-dir",
        there,
        "--model",
        "deit_tiny_patch16_224",
        "--set",
        "model.options.embed_dim=48",
    ]
    done = cli("convert", *given, "--output", back)
    assert done.status == 0, done.err
    x = torch.randn(2, 3, SIDE, SIDE)
    torch.testing.assert_close(adacomcat.load(back)(x), adacomcat.load(searched)(x))
    found = cli("info", *given, "--json").json
    assert found["sites"] == cli("info", "--from", searched, "--json").json["sites"]


def test_an_upstream_search_is_flagged_everywhere(asked, tmp_path, cli):
    folder = tmp_path / "run"
    done = cli(
        "search",
        *asked,
        "--preset",
        "upstream",
        "--set",
        "method.space=fractions",
        "--output",
        folder,
    )
    assert done.status == 0, done.err
    assert "LEAKAGE: the rank search and the selection of models saw" in done.out
    record = Run(folder).record()
    assert record["leakage"] == ["search", "selection"]
    for split in ("test", "val"):  # with the preset the same images
        done = cli("eval", "--from", folder, "--split", split, "--device", "cpu")
        assert "LEAKAGE" in done.out
    hashes = record["provenance"]["split_hashes"]
    assert hashes["search"] == hashes["test"]


def test_a_workload_without_files(tmp_path, cli):
    folder, tuned = tmp_path / "run", tmp_path / "tuned"
    done = cli(
        "search",
        "--workload",
        "synthetic",
        "--set",
        "data.options.images=400",
        "--epochs",
        2,
        "--schedule",
        "once",
        "--device",
        "cpu",
        "--output",
        folder,
    )
    assert done.status == 0, done.err
    assert "dense model: epoch 3/3" in done.out and f"finetune --from {folder}" in done.out
    # Finetuning knows its epochs from the workload.
    assert cli("finetune", "--from", folder, "--output", tuned, "--device", "cpu").status == 0
    assert len(rows(tuned / "epochs.jsonl")) == 2


def test_weights_that_are_no_numbers_are_named(searched, tmp_path, cli):
    model = adacomcat.load(searched)
    model.get_parameter("norm.bias").data[0] = torch.nan
    adacomcat.save(model, tmp_path / "spoiled")
    words = ["--data", Run(searched).record()["config"]["data"]["root"], "--device", "cpu"]
    done = cli("eval", "--from", tmp_path / "spoiled", *words, "--workers", 0, "--json")
    assert (done.status, done.out) == (1, "")
    assert done.err == "error: test: the loss is nan: norm.bias has values that are not finite\n"
