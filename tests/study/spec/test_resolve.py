from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.spec.resolve import Trace, resolve

CONFIG: dict[str, Any] = {"method": {"name": "lowrank"}, "search_phase": {"epochs": 6}}


def trace(ranks: list[int], searches: int) -> Trace:
    """A trial that searched at epochs 1, 2, ... and found these ranks."""
    rows = [{"epoch": e, "plan": {"head": rank}} for e, rank in enumerate(ranks, start=1)]
    return Trace(CONFIG, {"searches": searches}, rows)


def test_the_oracle_searches_when_the_plan_changes() -> None:
    traces = {"plans": trace([8, 8, 4, 4, 4], 5), "count": trace([], 2)}
    settings = resolve("oracle_schedule", CONFIG, traces)
    assert settings == {"schedule": {"kind": "explicit", "epochs": [1, 3]}}


def test_the_oracle_has_nothing_to_match_when_the_other_never_searched() -> None:
    with pytest.raises(ValueError, match="searches: got 0"):
        resolve("oracle_schedule", CONFIG, {"plans": trace([8] * 5, 5), "count": trace([], 0)})


def matched(resolver: str, searches: int, **changes: Any) -> list[int]:
    """The epochs that a control with as many searches searches at."""
    config = CONFIG | {"search_phase": {"epochs": 12}} | changes
    settings = resolve(resolver, config, {"count": trace([], searches)})
    assert settings["schedule"]["kind"] == "explicit"
    epochs: list[int] = settings["schedule"]["epochs"]
    return epochs


@pytest.mark.parametrize(
    ("searches", "even"),
    [(1, [1]), (2, [1, 6]), (3, [1, 4, 8]), (4, [1, 3, 6, 9]), (11, list(range(1, 12)))],
)
def test_even_searches_are_spaced_over_the_whole_phase(searches: int, even: list[int]) -> None:
    assert matched("even_schedule", searches) == even


def test_front_searches_are_the_first_ones() -> None:
    assert matched("front_schedule", 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("searches", [1, 4, 11])
def test_random_searches_are_as_many_and_begin_with_the_first_epoch(searches: int) -> None:
    for seed in range(20):
        epochs = matched("random_schedule", searches, seed=seed, schedule={"draw": 1})
        assert len(set(epochs)) == searches
        assert epochs == sorted(epochs)
        assert epochs[0] == 1 and epochs[-1] <= 11


def test_random_searches_follow_from_the_seed_and_the_draw() -> None:
    def drawn(seed: int, draw: int) -> list[int]:
        return matched("random_schedule", 4, seed=seed, schedule={"draw": draw})

    assert drawn(0, 1) == drawn(0, 1)
    assert len({tuple(drawn(seed, draw)) for seed in range(5) for draw in (1, 2)}) > 5


def test_random_searches_are_spread_evenly_over_many_draws() -> None:
    seeds = 2000
    drawn = [
        matched("random_schedule", 4, seed=seed, schedule={"draw": 1})[1:] for seed in range(seeds)
    ]
    counts = np.bincount(np.concatenate(drawn), minlength=12)[2:]
    # Drawn without replacement counts vary less than the test assumes, so that it rarely rejects.
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("resolver", ["even_schedule", "front_schedule", "random_schedule"])
def test_nothing_is_matched_when_the_other_never_searched(resolver: str) -> None:
    with pytest.raises(ValueError, match="searches: got 0, allowed: a matched trial that searched"):
        matched(resolver, 0, seed=0, schedule={"draw": 1})


def test_an_unknown_resolver_is_refused() -> None:
    with pytest.raises(ValueError, match="resolver: got 'orakel'"):
        resolve("orakel", CONFIG, {})
