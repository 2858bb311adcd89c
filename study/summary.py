"""What a study found, as a table: one row an arm."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from scipy.stats import t

from study.monitor import count

CONFIDENCE = 0.95


@dataclass(frozen=True)
class ArmRow:
    """The finished trials of an arm, summed up.

    Attributes:
        label: of the arm.
        seeds: how many finished.
        accuracy: mean test accuracy, 0..1; nan without a finished trial.
        half_width: of its t interval over the seeds; nan with fewer than two.
        searches: mean number.
        params: mean number.
    """

    label: str
    seeds: int
    accuracy: float
    half_width: float
    searches: float
    params: float


def arm_rows(study: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[ArmRow]:
    """Sum up the finished trials, arm by arm in the study's order.

    Args:
        study: the content of `study.json`.
        trials: the contents of `trial.json`, any number.
    """
    rows = []
    for arm in study["arms"]:
        found = [r for r in trials if r["arm"] == arm["name"] and r["status"] == "finished"]
        summaries = [record["summary"] for record in found]
        accuracies = [summary["test_acc"] for summary in summaries]
        rows.append(
            ArmRow(
                arm["label"],
                len(summaries),
                _mean(accuracies),
                half_width(accuracies),
                _mean([summary["searches"] for summary in summaries]),
                _mean([summary["params"] for summary in summaries]),
            )
        )
    return rows


def half_width(values: Sequence[float]) -> float:
    """Half of the t interval of a mean at `CONFIDENCE`; nan for fewer than two values."""
    if len(values) < 2:
        return math.nan
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def summary_table(rows: Sequence[ArmRow]) -> Table:
    """The rows as a table for the console."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm")
    for name in ("seeds", "test accuracy %", "searches", "params"):
        table.add_column(name, justify="right")
    for row in rows:
        if not row.seeds:
            table.add_row(row.label, "0", "", "", "")
            continue
        spread = "" if math.isnan(row.half_width) else f" ± {100 * row.half_width:.2f}"
        accuracy = f"{100 * row.accuracy:.2f}{spread}"
        searches = f"{row.searches:.4g}"
        table.add_row(row.label, str(row.seeds), accuracy, searches, count(round(row.params)))
    return table
