"""Token counts for a budget: expected counts scaled to it, and uniform ones."""

from collections.abc import Callable, Mapping, Sequence

from adacomcat.checks import require
from adacomcat.models.tokens import TokenSequence

Decisions = dict[str, int | None]
Cost = Callable[[Mapping[str, int | None]], int]
HALVINGS = 40


def scaled(
    patches: Mapping[str, float], least: int, form: TokenSequence, cost: Cost, target: float
) -> Decisions:
    """Counts in the proportions of the expected ones, as many as the target allows.

    One factor scales all; what rounding down leaves of the target goes to single tokens, first
    where it took most.

    Args:
        patches: site -> patches that it is expected to keep.
        least: the fewest that it may keep.
        form: of the model.
        cost: decisions -> MACs.
        target: MACs that may not be exceeded.

    Returns:
        Site -> tokens kept, prefix tokens included.

    Raises:
        ValueError: even the fewest cost more; names that cost.
    """

    def wanted(factor: float) -> dict[str, float]:
        bounds = (least, form.patches)
        return {s: min(max(factor * n, bounds[0]), bounds[1]) for s, n in patches.items()}

    def rounded(factor: float) -> Decisions:
        return {site: form.prefix + int(n) for site, n in wanted(factor).items()}

    _require_reachable(cost(rounded(0.0)), target)
    factor = _largest(lambda f: cost(rounded(f)) <= target, form.patches / min(patches.values()))
    decisions, lost = rounded(factor), {s: n - int(n) for s, n in wanted(factor).items()}
    for site in sorted(lost, key=lambda site: -lost[site]):
        more = {**decisions, site: (decisions[site] or 0) + 1}
        if lost[site] > 0 and cost(more) <= target:
            decisions = more
    return decisions


def uniform(
    sites: Sequence[str], least: int, form: TokenSequence, cost: Cost, target: float
) -> Decisions:
    """Every block with a site keeps the same share of the patches that reach it.

    Where it may prune and merge, half of what goes is pruned and half is merged. The last share
    within the target is taken, and no single tokens are given away.

    Args:
        sites: that may drop tokens.
        least: the fewest patches that one may keep.
        form: of the model.
        cost: decisions -> MACs.
        target: MACs that may not be exceeded.

    Returns:
        Site -> tokens kept, prefix tokens included.

    Raises:
        ValueError: even the fewest cost more; names that cost.
    """

    def kept(share: float) -> Decisions:
        decisions: Decisions = {}
        patches = float(form.patches)
        for block in range(form.depth):
            prune, merge = form.site(block, "prune"), form.site(block, "merge")
            if prune not in sites and merge not in sites:
                continue
            after = max(patches * share, float(least))
            between = (patches + after) / 2 if merge in sites else after
            if prune in sites:
                decisions[prune] = form.prefix + round(between)
            if merge in sites:
                decisions[merge] = form.prefix + round(after)
            patches = after
        return decisions

    fewest: Decisions = {site: form.prefix + least for site in sites}
    _require_reachable(cost(fewest), target)
    # Merging is work of its own: where it costs too much, all that goes is pruned.
    found = kept(_largest(lambda share: cost(kept(share)) <= target, 1.0))
    return found if cost(found) <= target else fewest


def _largest(fits: Callable[[float], bool], highest: float) -> float:
    """Nearly the largest number up to `highest` that fits; 0 where only that does."""
    if fits(highest):
        return highest
    low, high = 0.0, highest
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _require_reachable(smallest: int, target: float) -> None:
    require(
        smallest <= target,
        "budget",
        target,
        f"at least {smallest:,} macs for the searched sites, the smallest reachable cost",
    )
