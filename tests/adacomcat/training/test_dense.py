import pytest
import torch

from adacomcat.config import PhaseConfig
from adacomcat.training import dense_model
from adacomcat.training.dense import build_dense, dense_key


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_trained_once_then_read_from_the_cache(config, splits, tmp_path):
    rows = []
    first = dense_model(config, splits, tmp_path, progress=rows.append)
    assert [(r["epoch"], r["epochs"]) for r in rows] == [(0, 2), (1, 2)]
    second = dense_model(config, splits, tmp_path, progress=rows.append)
    assert len(rows) == 2
    assert same(first, second) and not second.training
    elsewhere = dense_model(config, splits, tmp_path / "elsewhere")
    assert same(first, elsewhere)


def test_the_key_follows_what_determines_the_weights_and_nothing_else(config, splits):
    key = dense_key(config, splits)
    assert dense_key(config.replace(seed=5, schedule={"kind": "never"}), splits) == key
    other_seed = config.dense.replace(seed=1)
    other_recipe = config.dense.replace(recipe=PhaseConfig(epochs=3))
    for dense in (other_seed, other_recipe):
        assert dense_key(config.replace(dense=dense), splits) != key


def test_a_damaged_cache_is_refused_by_name(config, splits, tmp_path):
    dense_model(config, splits, tmp_path)
    (path,) = tmp_path.glob("dense-*/*.pt")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{path.name}: truncated .*; delete the folder .*dense-"):
        dense_model(config, splits, tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_classes", 5, r"num_classes: got 5, allowed: 4, that of the data"),
        ("in_chans", 3, r"in_chans: got 3, allowed: 1, that of the data"),
        ("img_size", 32, r"img_size: got 32, allowed: \[8, 8\], that of the data"),
    ],
)
def test_options_that_are_not_those_of_the_data_are_named(config, splits, option, value, message):
    options = {**config.model.options, option: value}
    changed = config.replace(model=config.model.replace(options=options))
    with pytest.raises(ValueError, match=rf"model\.options\.{message}"):
        build_dense(changed, splits)
