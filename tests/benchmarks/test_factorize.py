"""Structure and equality."""

import pytest

pytestmark = pytest.mark.slow


def test_the_truncated_products_are_those_of_whole_decompositions(measure):
    record = measure("factorize", "--rank", 20)
    assert list(record["variants"]) == ["thin", "one by one", "batched", "linear layers"]
    assert record["settings"]["rank"] == 20
    assert [bar["name"] for bar in record["bars"]] == [
        "difference of thin",
        "difference of batched",
    ]
    assert all(bar["met"] for bar in record["bars"]), record["bars"]
    # Two ways to the same numbers, not one of them twice.
    assert record["bars"][0]["value"] > 0
    assert "4 x 3 products" in record["printed"]
