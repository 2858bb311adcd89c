import numpy as np
import pytest
import torch

from adacomcat.methods.lowrank.factorize import cholesky, decompose

SHAPES = ((3, 20, 17, 6), (1, 8, 24, 8), (2, 5, 5, 9))
"""G, m, n, d: thin, one side square, and wider inside than outside."""


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def best_of_rank(matrix, rank):
    """The best approximation of a whole matrix, by numpy's SVD."""
    u, s, vh = np.linalg.svd(matrix)
    return u[:, :rank] * s[:rank] @ vh[:rank]


@pytest.mark.parametrize("shape", SHAPES)
def test_leading_columns_are_the_best_product_of_each_rank(shape):
    groups, m, n, d = shape
    a, b = draw(groups, m, d, seed=1), draw(groups, n, d, seed=2)
    spectrum = decompose(a, b)
    assert spectrum.rank == min(m, n, d)
    products = (a @ b.mT).numpy()
    for rank in range(1, spectrum.rank + 1):
        truncated = spectrum.left[..., :rank] @ spectrum.right[..., :rank].mT
        expected = np.stack([best_of_rank(product, rank) for product in products])
        # float64 in, float64 throughout: nothing may be rounded to float32 on the way.
        np.testing.assert_allclose(truncated.numpy(), expected, rtol=0, atol=1e-12)


def test_values_are_the_singular_values_and_split_evenly():
    a, b = draw(2, 9, 4, seed=1), draw(2, 7, 4, seed=2)
    spectrum = decompose(a, b)
    expected = np.linalg.svd((a @ b.mT).numpy(), compute_uv=False)[:, :4]
    np.testing.assert_allclose(spectrum.values.numpy(), expected, rtol=1e-12)
    for side in (spectrum.left, spectrum.right):
        np.testing.assert_allclose((side**2).sum(-2).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("whitened", [False, True])
def test_maps_lead_from_the_old_factors_to_the_new(whitened):
    a, b = draw(2, 9, 4, seed=1), draw(2, 7, 4, seed=2)
    metrics = (
        (cholesky(moment(9, 3), 1e-6), cholesky(moment(7, 4), 1e-6)) if whitened else (None, None)
    )
    spectrum = decompose(a, b, *metrics)
    torch.testing.assert_close(a @ spectrum.left_map, spectrum.left, rtol=0, atol=1e-10)
    torch.testing.assert_close(b @ spectrum.right_map, spectrum.right, rtol=0, atol=1e-10)


def test_a_product_of_lower_rank_has_empty_columns():
    a, b = draw(1, 9, 4, dtype=torch.float32), draw(1, 7, 4, seed=2, dtype=torch.float32)
    a[..., 3] = a[..., 0]
    b[..., 2] = 0
    spectrum = decompose(a, b)
    torch.testing.assert_close(spectrum.left @ spectrum.right.mT, a @ b.mT)
    for part in (spectrum.left_map, spectrum.right_map):
        assert part.isfinite().all()
        assert not part[..., 2:].any()


def test_nothing_at_all_decomposes_to_nothing():
    spectrum = decompose(torch.zeros(2, 5, 3), torch.zeros(2, 4, 3))
    for part in (spectrum.left @ spectrum.right.mT, spectrum.left_map, spectrum.right_map):
        assert not part.any()


@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_whitened_error_is_the_tail_of_the_spectrum(sides):
    a, b = draw(2, 9, 6, seed=1), draw(2, 7, 6, seed=2)
    moments = (moment(9, 3), moment(7, 4))
    factors = map(torch.linalg.cholesky, moments)
    metrics = [f if side else None for f, side in zip(factors, sides, strict=True)]
    spectrum, plain = decompose(a, b, *metrics), decompose(a, b)
    for rank in range(1, 6):
        errors = [expected_error(a, b, s, rank, moments, sides) for s in (spectrum, plain)]
        tail = (spectrum.values[:, rank:] ** 2).sum(-1).numpy()
        np.testing.assert_allclose(errors[0], tail, rtol=1e-9)
        assert (errors[0] < errors[1]).all()


def expected_error(a, b, spectrum, rank, moments, sides):
    """(G,) trace(E^T Ca E Cb): the mean of (x_a^T E x_b)^2 over independent inputs."""
    error = a @ b.mT - spectrum.left[..., :rank] @ spectrum.right[..., :rank].mT
    left, right = (
        m if side else torch.eye(len(m), dtype=m.dtype)
        for m, side in zip(moments, sides, strict=True)
    )
    return torch.einsum("gmn,mk,gkl,ln->g", error, left, error, right).numpy()


def moment(width, seed):
    """A second moment whose directions differ a hundredfold."""
    rows = draw(4 * width, width, seed=seed) * torch.logspace(-1, 1, width, dtype=torch.float64)
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_cholesky_of_too_few_rows(rows):
    x = draw(rows, 8)
    second = x.T @ x / max(rows, 1)
    factor = cholesky(second, 1e-6)
    assert factor.isfinite().all()
    if rows:
        torch.testing.assert_close(factor @ factor.T, second, rtol=0, atol=1e-5)


def test_a_ridge_grows_until_a_factor_exists():
    """Rounding in float32 leaves eigenvalues below zero that the ridge does not cover."""
    moment = torch.diag(torch.tensor([1.0, 1.0, -1e-3], dtype=torch.float64))
    factor = cholesky(torch.stack([moment, torch.eye(3, dtype=torch.float64)]), 1e-6)
    added = factor @ factor.mT - torch.stack([moment, torch.eye(3, dtype=torch.float64)])
    assert 1e-3 < float(added[0, 2, 2]) < 4e-3 * 1.01
    torch.testing.assert_close(added[1], 1e-6 * torch.eye(3, dtype=torch.float64))
