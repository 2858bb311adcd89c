"""The parts of `real_vit.py` that need no pretrained weights, on a tiny model."""

import importlib

import pytest

from adacomcat.cost import count_params
from adacomcat.testing.models import tiny_images, tiny_vit
from adacomcat.versions import repository


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(repository() / "benchmarks"))
    return importlib.import_module("real_vit")


def test_errors_are_relative_to_the_dense_tokens(bench):
    dense = bench.tokens_of(tiny_vit(num_classes=0), tiny_images(3))
    assert dense[0].shape == (3, 32) and dense[1].shape == (3, 16, 32)
    assert bench.errors_of(dense, dense) == (0.0, 0.0)
    wrong = tuple(1.25 * part for part in dense)
    assert bench.errors_of(wrong, dense) == pytest.approx((0.25, 0.25))


def test_every_variant_gives_models_of_the_asked_sizes(bench):
    model, images, cuts = tiny_vit(num_classes=0), tiny_images(32), (0.3, 0.5)
    dense, errors = bench.tokens_of(model, images), {}
    for name, cut, made in bench.compressed_models(model, images, cuts):
        # Biases and norms are not counted in a budget.
        assert 1 - count_params(made) / count_params(model) == pytest.approx(cut, abs=0.06)
        errors[name, cut] = bench.errors_of(bench.tokens_of(made, images), dense)[0]
    assert errors.keys() == {(name, cut) for name in bench.VARIANTS for cut in cuts}
    assert errors[bench.DEFAULT, 0.5] < errors["plain SVD, uniform", 0.5]


def test_a_file_that_is_missing_is_named(bench, tmp_path):
    with pytest.raises(ValueError, match=r"--onnx: got .*no\.onnx"):
        bench.load_dinov2(tmp_path / "no.onnx")
