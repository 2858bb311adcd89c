"""Truncated singular value decompositions of products of thin factors: the tensor maths of ComCAT.

Shapes: G groups that are decomposed together (heads; 1 for a linear layer), m and n the two outer
sizes, d the inner size of a given product, k the rank that is kept.

A product `A B^T` with A (G, m, d) and B (G, n, d) has at most rank d. Two thin QRs, `A = Qa Ra` and
`B = Qb Rb`, leave the d x d matrix `Ra Rb^T = U S V^T`; no m x n matrix is ever formed (ComCAT,
arXiv 2305.17235, decomposes each head's D x D product instead). Singular values are split evenly
between the two factors, where the reference puts all of them on the right: the product is the same,
and the even split gives both factors gradients of one size.

With metrics, the truncation is optimal for `|| La^T (A B^T - A' B'^T) Lb ||_F`, the expected
squared error of `x_a^T A B^T x_b` for inputs with second moments `La La^T` and `Lb Lb^T`
(whitening: SVD-LLM, arXiv 2403.07378). Truncations of one decomposition nest in either case, so
that the leading r columns of the result are the best product of rank r.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """A decomposed product, `left @ right^T`, its columns in falling order of importance.

    Attributes:
        left: (G, m, k) and right: (G, n, k); each carries the square root of the singular values.
        values: (G, k) singular values, in the metric.
        left_map: (G, d, k) with `left = A @ left_map`, and right_map: (G, d, k) with
            `right = B @ right_map`; columns of zero singular values are zero.
    """

    left: Tensor
    right: Tensor
    values: Tensor
    left_map: Tensor
    right_map: Tensor

    @property
    def rank(self) -> int:
        return self.left.shape[-1]


def decompose(
    a: Tensor, b: Tensor, left_metric: Tensor | None = None, right_metric: Tensor | None = None
) -> Spectrum:
    """Decompose `a @ b^T`, batched over groups, on the tensors' device.

    Args:
        a: (G, m, d).
        b: (G, n, d).
        left_metric: lower Cholesky factor (m, m) or (G, m, m), float64, of the second moment of
            the inputs of the left side; None for the identity.
        right_metric: likewise (n, n) or (G, n, n) for the right side.

    Returns:
        All min(m, n, d) columns, in the dtype of `a`.
    """
    whitened = left_metric is not None or right_metric is not None
    wide = a.to(torch.promote_types(a.dtype, torch.float64 if whitened else torch.float32))
    a_weighted = wide if left_metric is None else left_metric.mT @ wide
    b_wide = b.to(wide.dtype)
    b_weighted = b_wide if right_metric is None else right_metric.mT @ b_wide
    q_a, r_a = torch.linalg.qr(a_weighted)
    q_b, r_b = torch.linalg.qr(b_weighted)
    u, s, vh = torch.linalg.svd(r_a @ r_b.mT, full_matrices=False)
    v = vh.mT
    root = s.sqrt().unsqueeze(-2)
    left = _unweight(q_a @ (u * root), left_metric)
    right = _unweight(q_b @ (v * root), right_metric)
    # Ra (Rb^T V S^-1/2) = U S^1/2: the maps need no inverse of Ra or Rb, only of the singular
    # values.
    tiny = s.amax(-1, keepdim=True) * torch.finfo(s.dtype).eps * s.shape[-1]
    inverse_root = torch.where(s > tiny, s, torch.inf).rsqrt().unsqueeze(-2)
    left_map = r_b.mT @ v * inverse_root
    right_map = r_a.mT @ u * inverse_root
    return Spectrum(*(t.to(a.dtype) for t in (left, right, s, left_map, right_map)))


def cholesky(second_moment: Tensor, ridge: float) -> Tensor:
    """The lower Cholesky factor, float64, of a symmetric (..., n, n) with a ridge on its diagonal.

    Args:
        second_moment: symmetric up to rounding.
        ridge: share of the mean eigenvalue that is added. Inputs behind a LayerNorm have a
            direction without any variance; where products in float32 have left eigenvalues below
            -ridge, it is raised until the factor exists.
    """
    moment = (second_moment.double() + second_moment.double().mT) / 2
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)
    # All-zero inputs (a dead layer) must not make the factor singular.
    scale = torch.where(mean > 0, mean, torch.ones_like(mean) / ridge)
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    share = torch.full_like(scale, ridge)
    while True:
        factor, failed = torch.linalg.cholesky_ex(moment + (share * scale)[..., None, None] * eye)
        if not bool((failed > 0).any()):
            return factor
        share = torch.where(failed > 0, 4 * share, share)


def _unweight(factor: Tensor, metric: Tensor | None) -> Tensor:
    if metric is None:
        return factor
    return torch.linalg.solve_triangular(metric.mT, factor, upper=True)
