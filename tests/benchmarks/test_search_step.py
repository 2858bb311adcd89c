"""Structure and equality; times and memory of a tiny model say nothing."""

import pytest

pytestmark = pytest.mark.slow


def by_name(record):
    return {bar["name"]: bar for bar in record["bars"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_product_is_the_mixture_written_out(measure, dtype):
    record = measure("search_step", "--batch-size", 2, "--dtype", dtype)
    assert list(record["variants"]) == ["plain", "one product", "dense"]
    for variant in record["variants"].values():
        assert len(variant["seconds"]) == 3
        assert variant["q1_s"] <= variant["median_s"] <= variant["q3_s"]
        # A child's peak must be its own: it had nothing before it had a model.
        assert variant["peak_bytes"] >= variant["base_bytes"] > 0
    bars = by_name(record)
    bounds = {name: bar["bound"] for name, bar in bars.items()}
    assert bounds["times as fast as plain"] == 10 and bounds["times as long as dense"] == 1.25
    for what in ("logits", "logit gradients"):
        difference = bars[f"difference of {what}"]
        assert difference["met"], difference
        # In bfloat16 the two round differently: equal to the last bit, it was not bfloat16.
        assert (difference["value"] > 1e-4) == (dtype == "bfloat16")


def test_an_unknown_model_is_one_line(run):
    done = run("search_step", "--model", "deit_tinny")
    assert done.returncode == 1
    assert done.stderr == "error: --model: got 'deit_tinny', allowed: one of timm\n"
