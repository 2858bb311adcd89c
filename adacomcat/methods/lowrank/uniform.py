"""Uniform rank plans: the same share of its full rank for every site."""

from collections.abc import Sequence

from adacomcat.budget import COUNTED_IN, Unit
from adacomcat.checks import require
from adacomcat.methods.lowrank.space import Site

Decisions = dict[str, int | None]


def uniform_decisions(sites: Sequence[Site], unit: Unit, target: float) -> Decisions:
    """The largest uniform plan that costs at most `target`.

    In `params` and `macs` every site is at one share of its full rank, whatever the candidates. Of
    latency only the candidates' is known, and the next larger one may be far beyond the budget:
    there the sites climb from candidate to candidate, those of a smaller share first and at one
    share in the model's order, and the plan is the last on the way that is within the budget.

    Raises:
        ValueError: no plan meets it; names the smallest cost.
    """
    return _climbed(sites, unit, target) if unit == "latency" else _shared(sites, unit, target)


def _shared(sites: Sequence[Site], unit: Unit, target: float) -> Decisions:
    def at(fraction: float) -> Decisions:
        return {site.name: _rank(site, fraction) for site in sites}

    low, high = 0.0, 1.0
    _refuse_below(_cost(sites, unit, at(low)), unit, target, "ranks of one a head")
    for _ in range(40):
        middle = (low + high) / 2
        fits = _cost(sites, unit, at(middle)) <= target
        low, high = (middle, high) if fits else (low, middle)
    return at(low)


def _rank(site: Site, fraction: float) -> int:
    """The rank at a share of the site's full rank: per head rounded down, at least one."""
    return max(1, int(fraction * site.full / site.groups)) * site.groups


def _climbed(sites: Sequence[Site], unit: Unit, target: float) -> Decisions:
    ladders = {site.name: [site.decision(unit, c.rank) for c in site.candidates] for site in sites}
    # A smaller rank need not be a faster one, so that this may lie off the way.
    best = {site.name: _cheapest(site, unit, ladders[site.name]) for site in sites}
    _refuse_below(_cost(sites, unit, best), unit, target, "the fastest candidates")
    steps = [
        (candidate.rank / site.full, row, column)
        for row, site in enumerate(sites)
        for column, candidate in enumerate(site.candidates)
        if column > 0
    ]
    reached = {name: ladder[0] for name, ladder in ladders.items()}
    spent = _cost(sites, unit, reached)
    if spent <= target:
        best = dict(reached)
    for _, row, column in sorted(steps):
        site = sites[row]
        rank = ladders[site.name][column]
        spent += site.cost(unit, rank) - site.cost(unit, reached[site.name])
        reached[site.name] = rank
        if spent <= target:
            best = dict(reached)
    return best


def _cheapest(site: Site, unit: Unit, ranks: Sequence[int | None]) -> int | None:
    return min(ranks, key=lambda rank: site.cost(unit, rank))


def _cost(sites: Sequence[Site], unit: Unit, decisions: Decisions) -> int:
    return sum(site.cost(unit, decisions[site.name]) for site in sites)


def _refuse_below(smallest: int, unit: Unit, target: float, of_what: str) -> None:
    require(
        smallest <= target,
        "budget",
        target,
        f"at least {smallest:,.0f} {COUNTED_IN[unit]} for the searched sites ({of_what})",
    )
