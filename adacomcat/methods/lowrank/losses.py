"""Estimated losses of each rank of each site, without training.

Shapes: G groups (heads; 1 for a linear layer), k columns of a spectrum.

With s the singular values of a site in its metrics and r the rank that is kept:

    sensitivity      sum over j > r of s_j^2: the squared error of the model's output, where the
                     metrics are `gradients`; absolute, so that sites can be compared
    measured         geometric mean of that and of the measured error of the output with this site
                     alone truncated, on a few images
    energy           sum over j > r of s_j^2, as a share of the site's own sum (BALF,
                     arXiv 2509.25136)
    effective_rank   R / r with R = exp(entropy of s^2): the best ranks for a budget of linear costs
                     w r are then proportional to sqrt(R / w) (D-Rank, arXiv 2509.25622)

The dense module has none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from adacomcat.methods.lowrank.factorize import Spectrum
from adacomcat.methods.lowrank.space import Site

Estimate = Literal["sensitivity", "measured", "energy", "effective_rank"]
MEASURED_SHARES = (0.2, 0.4, 0.6, 0.8)
"""Shares of the full rank at which `measured` truncates a site."""


def option_losses(
    site: Site, spectrum: Spectrum, ranks: Sequence[int | None], estimate: Estimate
) -> list[float]:
    """Losses of a site at its ranks.

    Args:
        site: the site.
        spectrum: its spectrum in the metrics in force.
        ranks: over all groups; None: dense, whose loss is 0.
        estimate: `measured` has the losses of `sensitivity`, which `measured_losses` corrects.
    """
    energies = spectrum.values.double().square()  # (G, k)
    tails = energies.flip(-1).cumsum(-1).flip(-1).sum(0).tolist() + [0.0]
    columns = [site.full if rank is None else rank for rank in ranks]
    tail = [tails[min(rank // site.groups, len(tails) - 1)] for rank in columns]
    if estimate == "energy":
        return [each / max(tails[0], 1e-300) for each in tail]
    if estimate == "effective_rank":
        total = _effective_rank(energies)
        return [total / rank - total / site.full for rank in columns]
    # The moments are means over the rows of an image.
    return [each * site.tokens for each in tail]


def measured_losses(
    ranks: Sequence[int | None],
    sensitivities: Sequence[float],
    points: Mapping[int, float],
) -> list[float]:
    """Geometric mean of sensitivities and measured errors, interpolated in the logarithm.

    Args:
        ranks: over all groups; None: dense.
        sensitivities: of these ranks.
        points: rank -> measured squared error of the model's output.
    """
    return [
        0.0 if rank is None else math.sqrt(loss * _interpolated(points, rank))
        for rank, loss in zip(ranks, sensitivities, strict=True)
    ]


def measured_ranks(site: Site) -> list[int]:
    """Ranks, over all groups, at which a site is truncated to measure the error."""
    columns = {max(1, int(share * site.full / site.groups)) for share in MEASURED_SHARES}
    return [count * site.groups for count in sorted(columns)]


def _effective_rank(energies: Tensor) -> float:
    """exp(entropy) of each group's energies (G, k), summed over groups."""
    shares = energies / energies.sum(-1, keepdim=True).clamp_min(1e-300)
    return float(torch.special.entr(shares).sum(-1).exp().sum())


def _interpolated(points: Mapping[int, float], rank: int) -> float:
    """The error at a rank, on the line through the two nearest points; it never rises with rank."""
    known = sorted((r, math.log(max(error, 1e-30))) for r, error in points.items())
    if len(known) == 1:
        return math.exp(known[0][1])
    index = min(max(sum(r <= rank for r, _ in known) - 1, 0), len(known) - 2)
    (low, at_low), (high, at_high) = known[index], known[index + 1]
    slope = min((at_high - at_low) / (high - low), 0.0)
    return math.exp(at_low + slope * (rank - low))
