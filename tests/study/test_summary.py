import math
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from study.summary import arm_rows, half_width, summary_table

STUDY = {"arms": [{"name": "b", "label": "B"}, {"name": "a", "label": "A"}]}


def trial(arm: str, accuracy: float, searches: int = 2, status: str = "finished") -> dict[str, Any]:
    summary = {"test_acc": accuracy, "searches": searches, "params": 1000}
    return {"arm": arm, "status": status, "summary": summary if status == "finished" else None}


def test_the_interval_is_scipy_s() -> None:
    values = [0.91, 0.95, 0.90, 0.97]
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert math.isnan(half_width([0.9]))


def test_a_row_an_arm_in_the_order_of_the_study() -> None:
    trials = [
        trial("a", 0.8, 3),
        trial("b", 0.5),
        trial("a", 0.9, 4),
        trial("b", 0, status="failed"),
    ]
    b, a = arm_rows(STUDY, trials)
    assert (b.label, b.seeds, b.accuracy, b.searches, b.params) == ("B", 1, 0.5, 2, 1000)
    assert (a.label, a.seeds, a.searches) == ("A", 2, 3.5)
    assert a.accuracy == pytest.approx(0.85)


def test_the_table_says_what_is_not_there() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(arm_rows(STUDY, [trial("a", 0.8), trial("a", 0.9)])))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[1] == ["B", "0"]
    assert lines[2] == ["A", "2", "85.00", "±", "63.53", "2", "1000"]
