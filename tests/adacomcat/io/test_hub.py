import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard

import adacomcat
from adacomcat.config.yaml import read_yaml
from adacomcat.io import hub
from adacomcat.io.directory import read_config
from adacomcat.io.hub import Origin, fetch, model_card
from adacomcat.methods.summary import Summary
from adacomcat.testing.models import tiny_images, tiny_vit

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
COSTS = {
    "params": 1000,
    "macs": 30_000,
    "dense_params": 4000,
    "dense_macs": 90_000,
}
RANKS = Summary(
    key="sites",
    columns={"site": "site", "rank": "rank", "of": "full_rank"},
    rows=[
        {"site": "blocks.0.qk", "rank": 8, "full_rank": 32, "params": 512, "dense_params": 2048},
        {"site": "head", "rank": None, "full_rank": 10, "params": 320, "dense_params": 320},
    ],
    units=("params", "macs"),
    rest="all else",
    changed="its products of matrices kept at searched ranks",
    tag="low-rank",
    note="Ranks of `qk` and `vo` are sums over the heads.",
)
TOKENS = Summary(
    key="blocks",
    columns={"block": "block", "tokens": "tokens", "pruning": "pruned", "merging": "merged"},
    rows=[
        {"block": "blocks.0", "tokens": 17, "pruned": 17, "merged": 17, "macs": 9, "dense_macs": 9},
        {"block": "blocks.1", "tokens": 17, "pruned": 12, "merged": 8, "macs": 5, "dense_macs": 9},
    ],
    units=("macs",),
    rest="all else",
    changed="its tokens pruned and merged at the rates below",
    tag="token-reduction",
)
BOTH = (RANKS, TOKENS)
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    adacomcat.save(tiny_vit(), folder, model_args={**SIZES, "num_classes": 10})
    return folder


# The card.


def read(text, tmp_path):
    """A card as huggingface_hub reads it, and its YAML as PyYAML does."""
    (tmp_path / "README.md").write_text(text)
    card = ModelCard.load(tmp_path / "README.md")
    return card, read_yaml(text.split("---\n")[1])


def test_the_hub_reads_what_the_card_says(saved, tmp_path):
    origin = Origin(data="digits", accuracy=0.9625, dense_accuracy=0.97, facts={"seed": 3})
    card, front = read(model_card(read_config(saved), COSTS, BOTH, origin), tmp_path)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9625)
    assert (result.dataset_name, result.dataset_split) == ("digits", "test")
    assert result.metric_name == "accuracy"
    assert front["library_name"] == "adacomcat" and front["pipeline_tag"] == "image-classification"
    assert {"timm", "low-rank", "token-reduction"} <= set(front["tags"])
    assert "kept at searched ranks and its tokens pruned and merged" in card.text
    assert "LEAKAGE" not in card.content
    for row in (
        "| parameters | 1,000 | 4,000 | -75.0% |",
        "| multiply-accumulates an image | 30,000 | 90,000 | -66.7% |",
        "| accuracy, test split | 96.25% | 97.00% | -0.75 points |",
        "| blocks.0.qk | 8 | 32 | 512 | 2,048 |",
        "| head | dense | 10 | 320 | 320 |",
        "| blocks.1 | 17 | 12 | 8 | 5 | 9 |",
        "| input_size | `[3, 16, 16]` |",
        "| seed | `3` |",
        f"| SHA-256 of the weights | `{read_config(saved)['adacomcat']['weights_sha256']}` |",
        "| images of the test split were seen by | none |",
    ):
        assert f"\n{row}\n" in card.text


@pytest.mark.parametrize(
    ("part", "tag", "words"),
    [
        (RANKS, "low-rank", "its products of matrices kept at searched ranks. It"),
        (TOKENS, "token-reduction", "its tokens pruned and merged at the rates below. It"),
        (dataclasses.replace(RANKS, changed=""), None, "saved by AdaComCAT, not compressed. It"),
    ],
)
def test_a_card_says_what_was_done_and_no_more(saved, tmp_path, part, tag, words):
    card, front = read(model_card(read_config(saved), COSTS, [part], Origin()), tmp_path)
    found = {"low-rank", "token-reduction"} & set(front["tags"])
    assert found == ({tag} if tag else set()) and words in card.text
    assert ("| site |" in card.text, "| block |" in card.text) == (
        part.key == "sites",
        part.key == "blocks",
    )


def test_what_leaked_stands_in_the_text_and_beside_the_number(saved, tmp_path):
    origin = Origin(data="digits", accuracy=0.5, leakage=("search", "selection"))
    card, _ = read(model_card(read_config(saved), COSTS, BOTH, origin), tmp_path)
    note = "LEAKAGE: the rank search and the selection of models saw the images"
    assert f"**{note}" in card.text
    assert note in card.data.eval_results[0].metric_name
    assert "| accuracy, test split | 50.00% |  |  |" in card.text
    assert "seen by | search, selection |" in card.text


def test_a_model_without_a_record_claims_no_accuracy(saved, tmp_path):
    card, front = read(model_card(read_config(saved), COSTS, BOTH, Origin()), tmp_path)
    assert "Its accuracy is not on record." in card.text and "model-index" not in front


def test_the_code_on_a_card_runs(saved, tmp_path, monkeypatch):
    text = model_card(read_config(saved), COSTS, BOTH, Origin())
    code = text.split("```python\n")[1].split("```")[0]
    assert "hf-hub:USER/REPOSITORY" in code
    names = {}
    exec(code.replace("hf-hub:USER/REPOSITORY", str(saved)), names)
    assert names["logits"].shape == (1, 10)


# Loading from the hub.


@pytest.fixture
def cache(saved, tmp_path):
    """A cache of the hub, as huggingface_hub lays it out, with one model under one revision."""
    repository = tmp_path / "cache" / "models--someone--tiny"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for path in saved.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(REVISION)
    return tmp_path / "cache"


def test_a_name_of_the_hub_loads_as_the_folder_does(cache, saved, tmp_path):
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    with torch.no_grad():
        torch.save(adacomcat.load(saved)(tiny_images(2)), tmp_path / "logits.pth")
    code = (
        "import sys, torch, adacomcat\n"
        "from adacomcat.testing.models import tiny_images\n"
        "expected = torch.load(sys.argv[1])\n"
        "for name in ('hf-hub:someone/tiny', 'hf-hub:someone/tiny@v1'):\n"
        "    assert torch.equal(adacomcat.load(name)(tiny_images(2)), expected)\n"
        "try:\n"
        "    adacomcat.load('hf-hub:someone/tiny@v2')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "logits.pth")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (message,) = done.stdout.splitlines()
    assert message.startswith("hf-hub:someone/tiny@v2: not to be had from the hub: ")


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:tiny", "hf-hub:a/b/c", "hf-hub:/", "hf-hub:a/"]
)
def test_a_name_that_is_none_is_refused_before_any_request(name, monkeypatch):
    def request(*args, **kwargs):
        raise AssertionError("asked")

    monkeypatch.setattr(hub, "snapshot_download", request)
    with pytest.raises(ValueError, match=f"directory: got '{name}', allowed: hf-hub:USER/REPOS"):
        adacomcat.load(name)


def test_only_the_model_s_files_are_asked_for(monkeypatch, saved):
    asked = []

    def request(*args, **kwargs):
        asked.append((args, kwargs))
        return str(saved)

    monkeypatch.setattr(hub, "snapshot_download", request)
    assert fetch("hf-hub:a/b", ("x",)) == saved
    adacomcat.load("hf-hub:a/b@v3")
    files = ["model.safetensors", "plan.json", "config.json"]
    assert asked == [
        (("a/b",), {"revision": None, "allow_patterns": ["x"]}),
        (("a/b",), {"revision": "v3", "allow_patterns": files}),
    ]
