"""Structure, and the sum by hand."""

import pytest


def test_the_share_is_that_counted_by_hand(measure):
    record = measure(
        "search_share", "--batch-size", 2, "--images", 9000, "--search-steps", 3, "--repeats", 1
    )
    part = {name: found["seconds"][0] for name, found in record["parts"].items()}
    step = (part["search"] - part["propose"]) / 3
    training = 30 * 1_231_167 / 2 * part["train"]
    for images, (share,) in record["shares"].items():
        searching = 29 * (part["decompose"] + int(images) / 2 * step + part["propose"])
        assert share == pytest.approx(searching / (searching + training))
    assert list(record["shares"]) == ["50000", "9000"]
    assert [bar["bound"] for bar in record["bars"]] == [0.04, 0.02]
    assert "published, of 50,000: 21.4%" in record["printed"]
