"""What a trial records of a search."""

from typing import Any

from adacomcat.method import Budget
from adacomcat.search.searcher import SearchReport


def search_row(
    report: SearchReport,
    budget: Budget,
    distance: float | None,
    changed: list[str],
    seconds: float,
) -> dict[str, Any]:
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
