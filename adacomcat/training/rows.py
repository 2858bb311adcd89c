"""What a trial records of its searches, says of its epochs, and sums up at its end."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from adacomcat.budget import Budget
from adacomcat.plan import Plan
from adacomcat.search.searcher import SearchReport

Row = dict[str, Any]


class Reporter(Protocol):
    """Takes a trial's rows as they come; called on every worker, with equal values but for clocks.

    After a resume the epoch that was interrupted is reported again, and counts in place of the
    first.
    """

    def epoch(self, row: Row) -> None: ...

    def search(self, row: Row) -> None: ...


def search_row(
    report: SearchReport,
    budget: Budget,
    distance: float | None,
    changed: list[str],
    seconds: float,
) -> Row:
    """One row of the searches, as JSON-able data.

    Args:
        report: of the searcher.
        budget: what the search had to meet.
        distance: from the plan in force to the plan found; None where there was none in force.
        changed: the sites that the search changed.
        seconds: that the search took, calibration and rebuilding included.
    """
    proposal = report.proposal
    return {
        "index": report.index,
        "epoch": report.epoch,
        "temperature": report.temperature,
        "loss": report.loss,
        "accuracy": report.accuracy,
        "expected_cost": report.expected_cost,
        "target_cost": budget.target,
        "plan_cost": proposal.cost,
        "unit": budget.unit,
        "distance": distance,
        "changed": changed,
        "plan": dict(proposal.plan.decisions),
        "logits": proposal.logits,
        "seconds": seconds,
        "images": report.images,
        "steps": report.steps,
    }


def epoch_line(row: Mapping[str, Any]) -> str:
    """One line of the log for a row of the epochs."""
    searches = "1 search" if row["searches"] == 1 else f"{row['searches']} searches"
    parts = [f"val accuracy {row['val_acc']:.4f}", searches]
    if row["loss"] is not None:
        waiting = row["data_s"] / (row["train_s"] + row["search_s"])
        parts.insert(0, f"loss {row['loss']:.4f}")
        parts.append(f"{row['images_per_s']:.0f} images/s")
        parts.append(f"{waiting:.1%} of the training time spent waiting for data")
    if row["unreadable"]:
        parts.append(f"{row['unreadable']} unreadable images left out so far")
    return f"{row['phase']} phase, epoch {row['epoch']}: {', '.join(parts)}"


def summary_row(
    epochs: Sequence[Row], searches: Sequence[Row], plan: Plan, last: Mapping[str, float]
) -> Row:
    """What the rows of a trial come to.

    Args:
        epochs: all rows of the epochs.
        searches: all rows of the searches.
        plan: in force at the end.
        last: seconds by span since the last row.
    """
    return {
        "val_acc": epochs[-1]["val_acc"] if epochs else None,
        "searches": len(searches),
        "search_epochs": [row["epoch"] for row in searches],
        "plan": dict(plan.decisions),
        **{name: last[name] + sum(row[name] for row in epochs) for name in last},
    }
