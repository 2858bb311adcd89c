import numpy as np
import pytest
import torch
from torch import nn

from adacomcat.methods.lowrank.linear import build_linear, decompose_linear, merge_linear
from adacomcat.testing.models import draw_parameters_

SHAPES = ((12, 30), (30, 12), (16, 16))
"""Inputs, outputs."""


def dense(inputs, outputs, bias=True):
    layer = nn.Linear(inputs, outputs, bias=bias)
    draw_parameters_(layer, 0)
    return layer


def product(layer):
    return (layer.last.weight @ layer.first.weight).detach().numpy()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_the_dense_layer(shape, bias):
    layer = dense(*shape, bias=bias)
    new = build_linear(layer, decompose_linear(layer, None, (None, None)), min(shape))
    x = torch.randn(5, shape[0], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(new(x), layer(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(merge_linear(new)(x), layer(x), rtol=0, atol=1e-5)
    assert (new.last.bias is None) == (not bias)


@pytest.mark.parametrize("shape", SHAPES)
def test_truncation_is_numpys_and_nests(shape):
    layer = dense(*shape)
    spectrum = decompose_linear(layer, None, (None, None))
    u, s, vh = np.linalg.svd(layer.weight.detach().numpy())
    wider = build_linear(layer, spectrum, 9)
    for rank in (1, 4, 9):
        best = u[:, :rank] * s[:rank] @ vh[:rank]
        direct = build_linear(layer, spectrum, rank)
        np.testing.assert_allclose(product(direct), best, rtol=0, atol=1e-5)
        again = build_linear(wider, decompose_linear(wider, None, (None, None)), rank)
        np.testing.assert_allclose(product(again), best, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(again.last.bias.detach(), layer.bias.detach())


def test_new_parameters_share_no_memory():
    layer = dense(12, 12)
    spectrum = decompose_linear(layer, None, (None, None))
    before = (layer.bias.detach().clone(), spectrum.left.clone(), spectrum.right.clone())
    new = build_linear(layer, spectrum, 12)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.zero_()
    after = (layer.bias.detach(), spectrum.left, spectrum.right)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
