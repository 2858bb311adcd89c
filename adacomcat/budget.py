"""Resolved budgets, and the multiple-choice knapsack that meets them.

The reference takes the most probable rank of each site alone, and may end above the budget or far
below it; `project` takes the most probable plan within the budget.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from adacomcat.checks import require

Unit = str
"""Unit of a cost: one of the units below, or one that a method declares."""
COUNTED_IN: Mapping[Unit, str] = MappingProxyType(
    {"params": "params", "macs": "macs", "latency": "ns an image"}
)
"""Unit that methods have in common -> its name in messages."""

Choices = Sequence[tuple[Sequence[float], Sequence[int]]]
"""A site each: (log-probabilities, costs) of its candidates."""


@dataclass(frozen=True)
class Budget:
    """A resolved target: the largest total cost of the searched sites.

    Attributes:
        unit: params (weights without biases), macs (an image) or latency (ns an image).
        target: cost that the searched sites may have.
        fixed: cost of everything that is counted and not searched.
        dense: counted cost of the dense model, searched and fixed.
    """

    unit: Unit
    target: float
    fixed: float
    dense: float

    def attained(self, site_cost: float) -> float:
        """The reduction of the whole counted model at this cost of the searched sites."""
        return 1 - (site_cost + self.fixed) / self.dense


def project(choices: Choices, target: float, unit: str = "params") -> list[int]:
    """The most probable choice of one candidate a site whose summed cost is at most `target`.

    The multiple-choice knapsack, solved exactly by dynamic programming over (cost, log-probability)
    states. Site after site, states that cost no less and are no likelier than another are dropped,
    and so are those that cannot beat a known solution even by the bound of the Lagrangian
    relaxation (Sinha and Zoltners, 1979). Of equally likely plans the cheaper is taken.

    Returns:
        Index of the chosen candidate of each site.

    Raises:
        ValueError: even the cheapest candidates cost more than `target`; names that cost.
    """
    sites = [(np.asarray(v, float), np.asarray(c, np.int64)) for v, c in choices]
    smallest = int(sum(costs.min() for _, costs in sites))
    require(
        smallest <= target,
        "budget",
        target,
        f"at least {smallest:,} {unit} for the searched sites, the smallest reachable cost",
    )
    price, known = _relax(sites, target)
    best_left = [float((v - price * c).max()) for v, c in sites]
    cheapest_left = [int(c.min()) for _, c in sites]
    cost, value = np.zeros(1, np.int64), np.zeros(1)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    for index, (values, costs) in enumerate(sites):
        all_cost = (cost[:, None] + costs).ravel()
        all_value = (value[:, None] + values).ravel()
        origin = np.repeat(np.arange(len(cost)), len(costs))
        choice = np.tile(np.arange(len(costs)), len(cost))
        reachable = all_cost + sum(cheapest_left[index + 1 :]) <= target
        bound = all_value + sum(best_left[index + 1 :]) + price * (target - all_cost)
        # The slack keeps the known solution itself, whose bound is reached only up to rounding.
        keep = np.flatnonzero(reachable & (bound >= known - 1e-9 * (1 + abs(known))))
        keep = keep[np.lexsort((-all_value[keep], all_cost[keep]))]
        rising = np.maximum.accumulate(all_value[keep])
        better = np.ones(len(keep), bool)
        better[1:] = all_value[keep][1:] > rising[:-1]
        keep = keep[better]
        cost, value = all_cost[keep], all_value[keep]
        history.append((origin[keep], choice[keep]))
    return _trace_back(history, int(np.argmax(value)))


def _relax(sites: Sequence[tuple[np.ndarray, np.ndarray]], target: float) -> tuple[float, float]:
    """A price of cost near the best multiplier, and the value of a solution within the budget."""

    def solve(price: float) -> tuple[float, float]:
        picks = [int((v - price * c).argmax()) for v, c in sites]
        pairs = list(zip(sites, picks, strict=True))
        return sum(float(c[i]) for (_, c), i in pairs), sum(float(v[i]) for (v, _), i in pairs)

    low, high = 0.0, 1e-12
    if solve(low)[0] <= target:
        return low, solve(low)[1]
    # Some site may have no probability left anywhere but at its dearest: stop at a huge price.
    while solve(high)[0] > target and high < 1e12:
        high *= 4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if solve(middle)[0] > target else (low, middle)
    cost, value = solve(high)
    return high, value if cost <= target else -np.inf


def _trace_back(history: Sequence[tuple[np.ndarray, np.ndarray]], state: int) -> list[int]:
    chosen = []
    for origin, choice in reversed(history):
        chosen.append(int(choice[state]))
        state = int(origin[state])
    return chosen[::-1]
