import json

import pytest

from adacomcat.methods.lowrank.config import LowRankConfig


def test_survives_json():
    config = LowRankConfig(fractions=(0.25, 0.5), ranks={"qk": (4, 8)}, keep_dense=("head",))
    written = json.loads(json.dumps(config.to_json()))
    assert LowRankConfig.from_json(written, "method") == config


@pytest.mark.parametrize(
    ("settings", "field", "allowed"),
    [
        ({"space": "papers"}, "method.space", "'paper', 'fractions', 'aligned' or 'fine'"),
        ({"biases": "fold"}, "method.biases", "'exact' or 'drop'"),
        ({"source": "sparse"}, "method.source", "'current' or 'dense'"),
        ({"fractions": []}, "method.fractions", "one or more"),
        ({"fractions": 0.5}, "method.fractions", "a list"),
        ({"keep_dense": "head"}, "method.keep_dense", "a list"),
        ({"fractions": [0.5, 0]}, "method.fractions.1", "above 0"),
        ({"fractions": [1.1]}, "method.fractions.0", "at most 1"),
        ({"ranks": {"kq": [4]}}, "method.ranks", "did you mean 'qk'"),
        ({"ranks": {"qk": []}}, "method.ranks.qk", "one or more"),
        ({"ranks": {"vo": [0]}}, "method.ranks.vo.0", "above 0"),
        ({"spaces": "paper"}, "method.spaces", "did you mean 'space'"),
    ],
)
def test_a_wrong_setting_is_named(settings, field, allowed):
    with pytest.raises(ValueError) as error:
        LowRankConfig.from_json(settings, "method")
    assert str(error.value).startswith(f"{field}: got ")
    assert allowed in str(error.value)
