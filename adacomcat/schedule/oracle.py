"""Optimal schedule in hindsight, by dynamic programming over a recorded trace.

A trial that searched at every epoch says which plan a search of each epoch would have proposed.
A schedule that searches less holds an old plan for a while. Its stale distance is the sum, over
the recorded epochs, of the distance between the plan in force (that of the last search) and the
plan that a search of that epoch proposed; while nothing is in force yet an epoch counts 1.
The oracle chooses the search epochs with the least stale distance, and every other schedule has a
regret against it. (A hindsight: it takes the proposals as given, though a trial that searched
less would have trained other weights and might have been proposed other plans.)

Sums are kept in units of 2**-53, as integers: ties are then ties, and the regret of the best
schedule is 0, not a rounding error.
"""

from collections.abc import Iterable, Mapping

from adacomcat.checks import require
from adacomcat.plan import Plan
from adacomcat.schedule.explicit import Explicit

UNIT = 2**53


def best_epochs(plans: Mapping[int, Plan], searches: int, epochs: int) -> list[int]:
    """The search epochs with the least stale distance; among equals the earliest.

    Time and memory grow with the square of the recorded epochs, and time with `searches` too.

    Args:
        plans: epoch -> plan that its search proposed, of a trial that searched at every epoch from
            its first search to the last epoch.
        searches: how many to choose.
        epochs: length of the search phase.

    Returns:
        `searches` epochs, ascending.

    Raises:
        ValueError: `searches` is not between 1 and the number of plans, or plans are missing.
    """
    recorded = _recorded(plans, epochs)
    count = len(recorded)
    sound = type(searches) is int and 1 <= searches <= count
    require(sound, "searches", searches, f"an integer from 1 to the {count} recorded plans")

    # held[i][j]: stale distance of epochs i..j-1 while the plan of epoch i is in force.
    held = [_held(plans, recorded, i) for i in range(count)]
    # tails[k][i]: least stale distance from epoch i to the end, with a search at i and k after it;
    # None where too few epochs are left for the k.
    tails: list[list[int | None]] = [[row[count] for row in held]]
    for _ in range(searches - 1):
        rest = tails[-1]
        tails.append([_least(held[i], rest, i + 1)[0] for i in range(count)])

    # Before the first search every epoch counts 1.
    before = [i * UNIT for i in range(count + 1)]
    chosen: list[int] = []
    for rest in reversed(tails):
        row = held[chosen[-1]] if chosen else before
        start = chosen[-1] + 1 if chosen else 0
        chosen.append(_least(row, rest, start)[1])
    return [recorded[i] for i in chosen]


def stale_distance(plans: Mapping[int, Plan], searched: Iterable[int], epochs: int) -> float:
    """Distance between the plan in force and the plan a search would propose, over all epochs.

    Args:
        plans: as in `best_epochs`.
        searched: the epochs at which a schedule searched; may be empty.
        epochs: length of the search phase.

    Returns:
        The sum over the recorded epochs: from 0 to their number.

    Raises:
        ValueError: a searched epoch without a recorded plan, or plans are missing.
    """
    return _stale(plans, searched, epochs) / UNIT


def regret(plans: Mapping[int, Plan], searched: Iterable[int], epochs: int) -> float:
    """The stale distance of a schedule above that of the best one with as many searches.

    Args:
        plans: as in `best_epochs`.
        searched: the epochs at which the schedule searched.
        epochs: length of the search phase.

    Returns:
        0 or more; 0 only where no choice of as many epochs does better.

    Raises:
        ValueError: no search, a searched epoch without a recorded plan, or plans are missing.
    """
    chosen = sorted(set(searched))
    best = best_epochs(plans, len(chosen), epochs)
    return (_stale(plans, chosen, epochs) - _stale(plans, best, epochs)) / UNIT


def oracle(plans: Mapping[int, Plan], searches: int, epochs: int) -> Explicit:
    """The schedule that searches at the `best_epochs`.

    Raises:
        ValueError: as `best_epochs` does.
    """
    return Explicit(epochs=best_epochs(plans, searches, epochs))


def _recorded(plans: Mapping[int, Plan], epochs: int) -> list[int]:
    """The epochs with a plan, ascending: all from the first to the last of the phase."""
    require(len(plans) > 0, "plans", "none", "the plans of a trial that searched at every epoch")
    recorded = sorted(plans)
    inside = recorded[0] >= 0 and recorded[-1] < epochs
    require(inside, "plans", [recorded[0], recorded[-1]], f"epochs from 0 to {epochs - 1}")
    missing = sorted(set(range(recorded[0], epochs)) - set(recorded))
    allowed = f"a plan of every epoch from {recorded[0]} to {epochs - 1}"
    require(not missing, "plans", f"none for epochs {missing}", allowed)
    return recorded


def _stale(plans: Mapping[int, Plan], searched: Iterable[int], epochs: int) -> int:
    recorded = _recorded(plans, epochs)
    chosen = set(searched)
    unknown = sorted(chosen - set(recorded))
    require(not unknown, "searched", unknown, f"epochs from {recorded[0]} to {recorded[-1]}")
    total, in_force = 0, None
    for epoch in recorded:
        if epoch in chosen:
            in_force = plans[epoch]
        total += _apart(in_force, plans[epoch])
    return total


def _held(plans: Mapping[int, Plan], recorded: list[int], i: int) -> list[int]:
    """Running sums of the distance from the plan of epoch i: entry j covers epochs i..j-1."""
    sums = [0] * (len(recorded) + 1)
    for j in range(i, len(recorded)):
        sums[j + 1] = sums[j] + _apart(plans[recorded[i]], plans[recorded[j]])
    return sums


def _least(row: list[int], rest: list[int | None], start: int) -> tuple[int | None, int]:
    """The least `row[j] + rest[j]` over j >= start, and the first j that gives it."""
    best, at = None, -1
    for j in range(start, len(rest)):
        tail = rest[j]
        if tail is not None and (best is None or row[j] + tail < best):
            best, at = row[j] + tail, j
    return best, at


def _apart(in_force: Plan | None, proposed: Plan) -> int:
    return UNIT if in_force is None else round(in_force.distance(proposed) * UNIT)
