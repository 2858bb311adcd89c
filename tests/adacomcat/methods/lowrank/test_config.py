import dataclasses
import json

import pytest

from adacomcat.config import from_mapping
from adacomcat.methods.lowrank.config import LowRankConfig


def test_survives_json():
    config = LowRankConfig(fractions=(0.25, 0.5), ranks={"qk": (4, 8)}, keep_dense=("head",))
    written = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_mapping(LowRankConfig, written, "method") == config


@pytest.mark.parametrize(
    ("settings", "field", "allowed"),
    [
        ({"space": "papers"}, "method.space", "paper, fractions, aligned"),
        ({"biases": "fold"}, "method.biases", "exact, drop"),
        ({"source": "sparse"}, "method.source", "current, dense"),
        ({"fractions": []}, "method.fractions", "at least one"),
        ({"fractions": 0.5}, "method.fractions", "a list, for instance [0.5]"),
        ({"keep_dense": "head"}, "method.keep_dense", "a list, for instance [head]"),
        ({"fractions": [0.5, 0]}, "method.fractions", "above 0"),
        ({"fractions": [1.1]}, "method.fractions", "at most 1"),
        ({"ranks": {"kq": [4]}}, "method.ranks", "did you mean 'qk'"),
        ({"ranks": {"qk": []}}, "method.ranks.qk", "at least one"),
        ({"ranks": {"vo": [0]}}, "method.ranks.vo", "1 or more"),
        ({"spaces": "paper"}, "method.spaces", "did you mean 'space'"),
    ],
)
def test_a_wrong_setting_is_named(settings, field, allowed):
    with pytest.raises(ValueError) as error:
        from_mapping(LowRankConfig, settings, "method")
    assert str(error.value).startswith(f"{field}: got ")
    assert allowed in str(error.value)
