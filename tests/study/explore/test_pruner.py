import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.explore.pruner import Decision, Pruner, place_of_last, read_decisions, scaled
from study.spec.exploration import Stopping

THREE = ("val_acc", "searches", "params")
TWO = ("val_loss", "searches")

Ask = tuple[str, int, tuple[float, ...]]

# Each decision is flushed to the disk, which takes its time.
ledgers = settings(max_examples=50, deadline=None)


def rule(**figures: Any) -> Stopping:
    """Strict, so that few arms are enough to stop one."""
    strict = {"rungs": (4,), "keep": 0.25, "peers": 2, "dominators": 1, "margin": 0.0}
    return Stopping(**strict | figures)


@contextmanager
def pruner(
    stopping: Stopping, objectives: Sequence[str], references: Sequence[str] = ()
) -> Iterator[Pruner]:
    """A pruner with a ledger of its own: hypothesis runs a test many times in one folder."""
    with tempfile.TemporaryDirectory() as folder:
        made = Pruner(stopping, objectives, references, Path(folder) / "rungs.jsonl")
        yield made
        made.close()


def decisions(
    asks: Sequence[Ask],
    stopping: Stopping,
    objectives: Sequence[str],
    references: Sequence[str] = (),
) -> list[Decision]:
    with pruner(stopping, objectives, references) as made:
        return [made.decide(*ask) for ask in asks]


# Small whole numbers: ties and equal arms are common, and sums and products of them are exact.
points = st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=12)
rules = st.builds(
    rule,
    keep=st.sampled_from([0.1, 0.25, 0.5, 0.75]),
    peers=st.integers(2, 5),
    dominators=st.integers(1, 3),
    margin=st.sampled_from([0.0, 0.125, 0.5]),
)


def as_asks(values: Sequence[tuple[float, ...]], rung: int = 4) -> list[Ask]:
    return [(f"a{index}", rung, tuple(map(float, each))) for index, each in enumerate(values)]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """In losses."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def peeled(losses: Sequence[tuple[float, ...]]) -> list[int]:
    """Non-dominated ranks, front after front, by the definition."""
    ranks: dict[int, int] = {}
    while len(ranks) < len(losses):
        left = [i for i in range(len(losses)) if i not in ranks]
        front = [i for i in left if not any(dominates(losses[j], losses[i]) for j in left)]
        ranks |= dict.fromkeys(front, max(ranks.values(), default=-1) + 1)
    return [ranks[i] for i in range(len(losses))]


@ledgers
@given(points)
def test_rank_is_that_of_the_definition(values):
    losses = [(-acc, searches, params) for acc, searches, params in values]
    found = decisions(as_asks(values), rule(), THREE)
    for count, decision in enumerate(found, start=1):
        assert (decision.rank, decision.of) == (peeled(losses[:count])[-1], count)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_position_is_by_rank_then_area_added_then_arrival(values):
    ranks = peeled(values)
    corner = [lowest(values, k) + 1.1 * span(values, k) for k in (0, 1)]
    keys = []
    for i, point in enumerate(values):
        front = sorted({p for p, rank in zip(values, ranks, strict=True) if rank == ranks[i]})
        first = values.index(point) == i
        keys.append((ranks[i], -area_added(point, front, corner) if first else 0.0, i))
    # Areas in whole numbers but for the corner's tenths.
    expected = sorted((rank, round(area, 6), i) for rank, area, i in keys)
    _, position = place_of_last(np.array(values, dtype=float))
    assert [i for _, _, i in expected].index(len(values) - 1) == position


def lowest(values: Sequence[tuple[int, ...]], k: int) -> int:
    return min(v[k] for v in values)


def span(values: Sequence[tuple[int, ...]], k: int) -> int:
    return (max(v[k] for v in values) - lowest(values, k)) or 1


def area_added(point: tuple[int, int], front: list[tuple[int, int]], corner: list[float]) -> float:
    """Of one point of a front in the plane: the rectangle up to its two neighbors."""
    i = front.index(point)
    right = front[i + 1][0] if i + 1 < len(front) else corner[0]
    above = front[i - 1][1] if i > 0 else corner[1]
    return (right - point[0]) * (above - point[1])


@ledgers
@given(points, rules, st.permutations(range(3)))
def test_order_of_the_objectives_changes_nothing(values, stopping, order):
    turned = [tuple(each[k] for k in order) for each in values]
    before = decisions(as_asks(values), stopping, THREE)
    after = decisions(as_asks(turned), stopping, [THREE[k] for k in order])
    assert [outcome(v) for v in before] == [outcome(v) for v in after]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_equal_contributions_are_a_tie_whatever_their_last_digits(order):
    # The last two mirror each other, so the first of them to come is ahead.
    values = np.array([(4, 3, 0), (1, 1, 0), (2, 0, 0)], dtype=float)
    assert place_of_last(values[:, order]) == (0, 1)


@ledgers
@given(points, rules, st.tuples(*[st.sampled_from([0.25, 1.0, 1024.0])] * 3), st.integers(-9, 9))
def test_units_and_origin_of_an_objective_change_nothing(values, stopping, scales, shift):
    moved = [tuple(s * (x + shift) for s, x in zip(scales, each, strict=True)) for each in values]
    before = decisions(as_asks(values), stopping, THREE)
    after = decisions(as_asks(moved), stopping, THREE)
    assert [outcome(v) for v in before] == [outcome(v) for v in after]


def outcome(decision: Decision) -> tuple[Any, ...]:
    return decision.rank, decision.position, decision.of, decision.dominated_by, decision.stop


@ledgers
@given(points, rules)
def test_a_stop_has_its_reasons_and_only_then_there_is_one(values, stopping):
    found = decisions(as_asks(values), stopping, THREE, references=["a1"])
    for decision in found:
        reasons = (
            decision.arm != "a1",
            decision.of >= stopping.peers,
            decision.position >= stopping.keep * decision.of,
            decision.dominated_by >= stopping.dominators,
        )
        assert decision.stop == all(reasons)
        assert decision.rank > 0 or decision.dominated_by == 0


def test_references_are_compared_with_but_never_stopped():
    asks = as_asks([(0.9, 1, 10), (0.8, 2, 20), (0.8, 2, 20)])
    free, bound = decisions(asks, rule(), THREE, ["a1"])[1:]
    assert (free.dominated_by, free.stop) == (1, False)
    assert (bound.dominated_by, bound.stop) == (1, True)


def test_of_equal_arms_the_first_is_best_and_the_front_is_never_stopped():
    found = decisions(as_asks([(0.5, 3, 10)] * 4 + [(0.5, 2, 10)]), rule(keep=0.1), THREE)
    assert [v.position for v in found] == [0, 1, 2, 3, 0]
    assert not any(v.stop for v in found)


def test_margin_is_a_share_of_the_span_and_needs_one_objective():
    # Spans: 0.5 of accuracy, 10 searches, 0 params; the last arm is 1 search behind the first.
    values = [(0.9, 1, 7), (0.4, 11, 7), (0.9, 2, 7)]
    for margin, dominated_by in ((0.0, 1), (0.09, 1), (0.11, 0)):
        last = decisions(as_asks(values), rule(margin=margin), THREE)[-1]
        assert (last.dominated_by, last.stop) == (dominated_by, dominated_by > 0)


def test_where_nothing_differs_nobody_is_better():
    found = decisions(as_asks([(0.9, 1, 7)] * 9), rule(), THREE)
    assert {(v.rank, v.dominated_by, v.stop) for v in found} == {(0, 0, False)}


@pytest.mark.parametrize(("peers", "stops"), [(2, 3), (3, 2), (4, 1), (5, 0)])
def test_few_peers_stop_nobody(peers, stops):
    worse_and_worse = as_asks([(0.9, n, n) for n in range(4)])
    found = decisions(worse_and_worse, rule(peers=peers), THREE)
    assert sum(v.stop for v in found) == stops


def test_one_objective_is_halving_by_order():
    values = np.random.default_rng(0).permutation(40).astype(float)
    asks = as_asks([(value,) for value in values])
    for direction, objective in ((1, "val_loss"), (-1, "val_acc")):
        found = decisions(asks, rule(keep=1 / 3, peers=3), [objective])
        for count, decision in enumerate(found, start=1):
            better = int((direction * values[: count - 1] < direction * values[count - 1]).sum())
            assert decision.position == decision.rank == decision.dominated_by == better
            assert decision.stop == (count >= 3 and better >= math.ceil(count / 3))


@pytest.mark.parametrize(("keep", "count", "best"), [(0.28, 25, 7), (0.5, 5, 3), (0.34, 3, 2)])
def test_the_best_are_rounded_up_but_not_by_the_last_digit(keep, count, best):
    # As floats, 0.28 * 25 is above 7.
    # The last to come is the best but `place`.
    for place in (best - 1, best):
        values = [(float(n),) for n in range(count) if n != place] + [(float(place),)]
        last = decisions(as_asks(values), rule(keep=keep), ["val_loss"])[-1]
        assert (last.of, last.stop) == (count, place >= best)


@ledgers
@given(points, rules, st.data())
def test_asked_again_the_first_verdict_is_given_again(values, stopping, data):
    asks = as_asks(values)
    again = data.draw(st.lists(st.sampled_from(asks), max_size=8))
    other = [(arm, rung, tuple(x + 1 for x in point)) for arm, rung, point in again]
    with pruner(stopping, THREE) as made:
        first = {ask[0]: made.decide(*ask) for ask in asks}
        assert [made.decide(*ask) for ask in other] == [first[arm] for arm, _, _ in again]
        assert [made.decide(*ask) for ask in asks] == list(first.values())


@ledgers
@given(points, rules, st.data())
def test_a_new_pruner_on_the_ledger_goes_on_as_the_old_one_would(values, stopping, data):
    asks = as_asks(values)
    kill = data.draw(st.integers(0, len(asks)))
    cut = data.draw(st.integers(0, 44))
    undisturbed = decisions(asks, stopping, THREE)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "rungs.jsonl"
        old = Pruner(stopping, THREE, [], ledger)
        for ask in asks[:kill]:
            old.decide(*ask)
        old.close()
        # What a kill in the middle of a write leaves: no end of line, perhaps not even a value.
        piece = b'{"arm": "a3", "rung": 4, "values": [1.0, 2.0'[:cut]
        ledger.write_bytes(ledger.read_bytes() + piece)
        new = Pruner(stopping, THREE, [], ledger)
        assert [new.decide(*ask) for ask in asks] == undisturbed
        new.close()
        assert read_decisions(ledger) == undisturbed


def test_rungs_are_decided_apart(tmp_path):
    made = Pruner(rule(rungs=(4, 8)), ["val_loss"], [], tmp_path / "rungs.jsonl")
    assert not made.decide("a", 4, [1.0]).stop
    assert made.decide("b", 4, [2.0]).stop
    later = made.decide("c", 8, [9.0])
    assert (later.of, later.stop) == (1, False)
    made.close()


def test_a_ledger_of_other_objectives_or_of_no_pruner_is_refused(tmp_path):
    path = tmp_path / "rungs.jsonl"
    first = Pruner(rule(), ["val_loss"], [], path)
    first.decide("a", 4, [1.0])
    first.close()
    with pytest.raises(ValueError, match=r"rungs\.jsonl: values: got 1, allowed: 3, .*val_acc"):
        Pruner(rule(), THREE, [], path)
    path.write_text('{"arm": "a"}\n')
    with pytest.raises(ValueError, match=r"rungs\.jsonl, line 1: .*a decision"):
        Pruner(rule(), ["val_loss"], [], path)


@pytest.mark.parametrize(
    ("rung", "values", "message"),
    [
        (4, (0.9, math.nan, 1.0), "a: values at rung 4"),
        (4, (0.9, math.inf, 1.0), "a finite number each for val_acc, searches, params"),
        (4, (0.9, 1.0), "a: values at rung 4"),
        (5, (0.9, 1.0, 1.0), r"a: rung: got 5, allowed: one of \(4,\)"),
    ],
)
def test_a_wrong_ask_is_refused_and_leaves_no_trace(tmp_path, rung, values, message):
    path = tmp_path / "rungs.jsonl"
    made = Pruner(rule(), THREE, [], path)
    with pytest.raises(ValueError, match=message):
        made.decide("a", rung, values)
    assert read_decisions(path) == []
    assert made.decide("a", 4, (0.9, 1.0, 1.0)).of == 1
    made.close()


def zdt1(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points of ZDT1 (Zitzler et al. 2000), half of them on its front, in random order.

    Returns:
        The two losses, (count, 2), and which points are on the front, (count).
    """
    on_front = rng.permutation(count) < count // 2
    x = rng.random(count)
    g = np.where(on_front, 1.0, 1 + rng.uniform(0.3, 1.5, count))
    return np.stack([x, g * (1 - np.sqrt(x / g))], axis=1), on_front


def explored(
    final: np.ndarray, noise: float, stopping: Stopping, rng: np.random.Generator
) -> np.ndarray:
    """Which arms reach the end when all losses fall alike towards theirs, but for noise."""
    alive = np.ones(len(final), dtype=bool)
    with pruner(stopping, TWO) as made:
        for index, rung in itertools.product(range(len(final)), stopping.rungs):
            values = final[index] + 1 / rung + rng.normal(0, noise / rung, 2)
            if alive[index] and made.decide(f"a{index}", rung, values).stop:
                alive[index] = False
    return alive


@pytest.mark.parametrize("seed", range(5))
def test_on_a_known_front_what_is_dominated_is_stopped_and_the_front_is_not(seed):
    rng = np.random.default_rng(seed)
    final, on_front = zdt1(60, rng)
    alive = explored(final, 0.0, Stopping(rungs=(4, 8, 12)), rng)
    assert alive[on_front].all()
    assert alive[~on_front].mean() < 0.4


@pytest.mark.parametrize("seed", range(5))
def test_noise_at_the_rungs_costs_little_of_the_front(seed):
    rng = np.random.default_rng(seed)
    final, on_front = zdt1(60, rng)
    alive = explored(final, 0.2, Stopping(rungs=(4, 8, 12)), rng)
    whole, kept = (
        moocore.hypervolume(scaled(final)[chosen], ref=[1.1, 1.1])
        for chosen in (slice(None), alive)
    )
    assert alive.mean() < 0.75
    assert kept >= 0.95 * whole
