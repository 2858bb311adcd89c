"""Structure, equality and the counts of a model that is cut down."""

import importlib

import pytest

from adacomcat.methods.tokens.form import TokenForm
from adacomcat.methods.tokens.rates import published_at
from study.execution.provenance import repository

TINY, RATE = "deit_tiny_patch16_224", 0.6


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(repository() / "benchmarks"))
    return importlib.import_module("inference_tokens")


def test_every_mode_is_measured_and_a_cut_model_has_no_bar(measure):
    modes = ("--modes", "eager", "onnxruntime", "--dtypes", "float32", "bfloat16")
    record = measure("inference_tokens", *modes, "--rate", RATE, "--batch-sizes", 1, 3)
    found = {(row["mode"], row["dtype"], row["batch_size"]) for row in record["rows"]}
    eager = {("eager", dtype, size) for dtype in ("float32", "bfloat16") for size in (1, 3)}
    # ONNX Runtime runs the file, which is in float32.
    assert found == eager | {("onnxruntime", "float32", size) for size in (1, 3)}
    for row in record["rows"]:
        assert min(row["images_per_s"].values()) > 0
    assert record["macs"]["fewer tokens"] < record["macs"]["dense"]
    assert record["bars"] == []
    assert f"{record['macs']['fewer tokens']:,} MACs an image" in record["printed"]


def test_only_what_the_bar_is_for_is_held_to_it(benchmark):
    ratios = {"eager": 1.6, "compiled": 1.4, "onnxruntime": 1.1}
    rows = [
        {"mode": m, "dtype": "float32", "batch_size": b, "over_dense": {"median_s": ratio}}
        for m, ratio in ratios.items()
        for b in (1, 8)
    ]
    found = list(benchmark.bars(rows, benchmark.parse([])))
    assert [(bar.name, bar.met) for bar in found] == [
        ("eager, float32, batch 8", True),
        ("compiled, float32, batch 8", False),
    ]
    for flags in (["--rate", "2.3"], ["--depth", "2"], ["--device", "cuda"]):
        assert not list(benchmark.bars(rows, benchmark.parse(flags)))


def test_a_model_that_is_whole_has_the_published_counts(benchmark):
    published = published_at(TINY, RATE)
    form = TokenForm("blocks", 12, 196, 1, 1, pooled=False)
    assert benchmark.rates_for(form, published) == published


def test_a_model_that_is_cut_down_keeps_the_same_shares(benchmark):
    published = published_at(TINY, RATE)
    # Blocks 0 and 6 of 12, with a quarter of the patches; 76 and 86 of 197 tokens at the latter.
    found = benchmark.rates_for(TokenForm("blocks", 2, 49, 1, 1, pooled=False), published)
    assert (published.merge[6], published.prune[6]) == (76, 86)
    assert (found.prune, found.merge) == ((50, 23), (50, 20))


def test_a_rate_that_was_not_published_is_one_line(run):
    done = run("inference_tokens", "--rate", "2.8")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: published rate: got 2.8, allowed: 2.3, 2.5, 2.7, 2.9, 3.1"
    )
    assert "Traceback" not in done.stderr
