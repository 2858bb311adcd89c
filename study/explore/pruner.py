"""Multi-objective pruner: early stopping of arms by asynchronous successive halving.

Successive halving, asynchronous and for several objectives. When an arm has come to a rung it is
compared, once and for good, with all arms that came to that rung before it, whether they have
finished since, were stopped or still run. It is stopped if and only if

    (a) at least `peers` arms are there, itself included,
    (b) it is not among the best ceil(keep * n) of the n that are there, and
    (c) at least `dominators` of them dominate it with margin.

The best are ordered by non-dominated rank; within a rank by what they contribute to the hypervolume
of the rank; then by arrival. Of arms with equal values the first to come has the contribution, the
others have none. Contributions are taken in losses (less is better) scaled to the span of the arms
of the rung, each objective from 0, the best, to 1, against the reference point 1.1 in all of them.

An arm dominates another *with margin* when it is at least as good in every objective and in one of
them better by more than `margin` of the span. In an objective that all arms share there is no span:
nobody is better in it, and the others decide.

Sources: asynchronous successive halving, ASHA (Li et al. 2020, arXiv 1810.05934), and its extension
to several objectives, MO-ASHA (Schmucker et al. 2021, arXiv 2106.12639). What differs:

- Both let an arm wait at its rung until it belongs to the best share, and then promote it. Here it
  goes on or ends at once, so it never holds workers while it waits, and nothing is taken back:
  early arrivals are treated mildly.
- MO-ASHA orders the arms of a rank by an epsilon-net or by crowding; here the hypervolume does.
- (c) is an addition. Where most arms are compromises of the front, none beats another, and a share
  of them would be stopped by the order alone.
- References are compared with, but never stopped.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import moocore
import numpy as np
import numpy.typing as npt

from adacomcat.checks import require
from adacomcat.io.trace import Rows, read_rows
from study.spec.exploration import Stopping
from study.spec.objectives import losses

REFERENCE_POINT = 1.1
"""Reference point of the hypervolume, in losses scaled to 0..1: slightly beyond the worst, so that
the ends of a front count too."""

# Contributions that are equal on paper differ in their last digits, by the order of the objectives.
_DIGITS = 9

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """Decision about an arm at a rung, with its inputs.

    Attributes:
        arm: its name.
        rung: epochs that it had done.
        values: its objectives, each in its own direction.
        rank: its non-dominated rank among the arms of the rung; 0 is the front.
        position: its place in their order; 0 is the best.
        of: how many they were, itself included.
        dominated_by: how many of them dominated it with margin.
        stop: whether it ends here.
    """

    arm: str
    rung: int
    values: tuple[float, ...]
    rank: int
    position: int
    of: int
    dominated_by: int
    stop: bool


def read_decisions(path: Path) -> list[Decision]:
    """The decisions of a ledger, in the order they were given; none where there is no ledger.

    Raises:
        ValueError: a line that is no JSON or no decision; the file and the line are named.
    """
    names = {field.name for field in fields(Decision)}
    decisions = []
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, line {number}"
        require(isinstance(row, dict) and row.keys() == names, where, row, "a decision")
        decisions.append(Decision(**row | {"values": tuple(row["values"])}))
    return decisions


class Pruner:
    """Gives one decision for each arm and rung, and keeps it in a ledger.

    The decisions depend on nothing but the arms, the values and the order in which they were asked
    for. The ledger is the state: a pruner opened on it again continues where it ends.
    """

    def __init__(
        self,
        stopping: Stopping,
        objectives: Sequence[str],
        references: Iterable[str],
        ledger_path: Path,
    ) -> None:
        """Open the ledger, or start one.

        Args:
            stopping: the rule's figures.
            objectives: names of `study.spec.objectives.METRICS`.
            references: names of the arms that are never stopped.
            ledger_path: a JSON-lines file in a folder that exists.

        Raises:
            ValueError: a ledger that does not read, or that was written for other objectives.
        """
        self._stopping, self._objectives = stopping, tuple(objectives)
        self._references = frozenset(references)
        # Of a rung: arm -> decision, in the order of arrival.
        self._rungs: dict[int, dict[str, Decision]] = {rung: {} for rung in stopping.rungs}
        for decision in read_decisions(ledger_path):
            allowed = f"{len(self._objectives)}, one for each of {', '.join(self._objectives)}"
            count = len(decision.values)
            require(count == len(self._objectives), f"{ledger_path}: values", count, allowed)
            # A rung that was given up since decides nothing any more.
            self._rungs.setdefault(decision.rung, {})[decision.arm] = decision
        self._ledger = Rows(ledger_path)

    def decide(self, arm: str, rung: int, values: Sequence[float]) -> Decision:
        """Whether an arm continues; repeated calls return the first decision.

        So an arm that is interrupted after the decision and comes back hears the same, even where
        its values differ in the last digits or since it got more seeds.

        Args:
            arm: its name.
            rung: epochs that it has done, one of `stopping.rungs`.
            values: its objectives after so many epochs, each in its own direction.

        Raises:
            ValueError: an unknown rung, a wrong number of values, a nan or an infinity.
        """
        rungs = self._stopping.rungs
        require(rung in rungs, f"{arm}: rung", rung, f"one of {rungs}")
        before = self._rungs[rung]
        if arm in before:
            return before[arm]
        values = tuple(float(value) for value in values)
        fit = len(values) == len(self._objectives) and all(map(math.isfinite, values))
        names = ", ".join(self._objectives)
        require(fit, f"{arm}: values at rung {rung}", values, f"a finite number each for {names}")
        decision = self._decision(arm, rung, values)
        # First to the disk: a decision that was acted upon must not be forgotten.
        self._ledger.append(asdict(decision))
        self._ledger.sync()
        before[arm] = decision
        return decision

    def close(self) -> None:
        """Close the ledger; no decisions are possible afterwards."""
        self._ledger.close()

    def _decision(self, arm: str, rung: int, values: tuple[float, ...]) -> Decision:
        there = [decision.values for decision in self._rungs[rung].values()]
        points = np.array([losses(each, self._objectives) for each in (*there, values)])
        rank, position = place_of_last(points)
        dominated_by = dominators_of_last(points, self._stopping.margin)
        count, rule = len(points), self._stopping
        # Not ceil alone: 0.28 * 25 is a little above 7.
        best = math.ceil(round(rule.keep * count, _DIGITS))
        stop = (
            arm not in self._references
            and count >= rule.peers
            and position >= best
            and dominated_by >= rule.dominators
        )
        return Decision(arm, rung, values, rank, position, count, dominated_by, stop)


def place_of_last(points: Array) -> tuple[int, int]:
    """Non-dominated rank of the last point, and its place in the order of all of them.

    Args:
        points: losses in the order of arrival, (points, objectives).

    Returns:
        Both from 0, the best.
    """
    ranks = moocore.pareto_rank(points)
    rank = int(ranks[-1])
    equals = scaled(points)[ranks == rank]
    gains = _contributions(equals)
    # The last to arrive is behind all that contribute as much.
    return rank, int((ranks < rank).sum() + (gains[:-1] >= gains[-1]).sum())


def dominators_of_last(points: Array, margin: float) -> int:
    """Number of points that dominate the last one with margin.

    Args:
        points: losses, (points, objectives).
        margin: share of the span of an objective.
    """
    spans = np.ptp(points, axis=0)
    lead = points[-1] - points[:-1]
    return int(((lead >= 0).all(axis=1) & (lead > margin * spans).any(axis=1)).sum())


def scaled(points: Array) -> Array:
    """Losses from 0, the best of the points, to 1, the worst; 0 where all are equal."""
    spans = np.ptp(points, axis=0)
    shares: Array = (points - points.min(axis=0)) / np.where(spans > 0, spans, 1.0)
    return shares


def _contributions(front: Array) -> Array:
    """Hypervolume contributions of points of one rank; of equal ones only the first contributes.

    Args:
        front: scaled losses in the order of arrival, (points, objectives).
    """
    gains = np.zeros(len(front))
    distinct, first = np.unique(front, axis=0, return_index=True)
    # Where all are equal (with one objective they always are) arrival alone decides.
    if len(distinct) > 1:
        reference = [REFERENCE_POINT] * front.shape[1]
        gains[first] = moocore.hv_contributions(distinct, ref=reference)
    return gains.round(_DIGITS)
