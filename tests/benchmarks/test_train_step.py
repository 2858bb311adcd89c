"""Structure, equality and counts."""

import pytest

pytestmark = pytest.mark.slow


def test_a_shared_forward_gives_the_losses_of_two(measure):
    record = measure("train_step", "--batch-size", 2)
    steps = ["dense", "committed", "one teacher forward", "two teacher forwards"]
    assert list(record["variants"]) == [*steps, "teacher"]
    assert list(record["memory"]) == steps
    found = {bar["name"]: bar["value"] for bar in record["bars"]}
    assert found["teacher forwards a step, shared"] == 1
    assert found["teacher forwards a step, apart"] == 2
    assert found["difference of the losses"] <= 1e-5
