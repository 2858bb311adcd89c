from typing import Any

import pytest

from study.resolve import Trace, resolve

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


def test_an_unknown_resolver_is_refused() -> None:
    with pytest.raises(ValueError, match="resolver: got 'orakel'"):
        resolve("orakel", CONFIG, {})
