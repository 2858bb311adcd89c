"""Rows of a trial: one per epoch, one per search, and the final summary."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from adacomcat.budget import Budget
from adacomcat.plan import Plan
from adacomcat.search.strategy import SearchReport

Row = dict[str, Any]


class Reporter(Protocol):
    """Receives the rows of a trial; called on every worker, with values equal up to clocks.

    After a resume the interrupted epoch is reported again and replaces the first report.
    """

    def begin(self, epochs: Sequence[Row], searches: Sequence[Row]) -> None:
        """Called first, with the rows that the trial continues from; none at its start."""

    def epoch(self, row: Row) -> None: ...

    def search(self, row: Row) -> None: ...


def epoch_row(
    *,
    phase: str,
    epoch: int,
    step_epoch: int,
    trained: Mapping[str, Any],
    val_acc: float,
    val_loss: float,
    interval: float | None,
    searches: int,
    sites_changed: int | None,
    params: int,
    macs: int,
    clocks: Mapping[str, float],
    unreadable: int,
    wall_s: float,
) -> Row:
    """The row of an epoch, as JSON-able data.

    Args:
        phase: "search" or "finetune".
        epoch: within the phase, from 0.
        step_epoch: over both phases, from 0.
        trained: loss, base_loss, lr, align_weight and images; empty where the weights are frozen.
        val_acc: accuracy on val, from 0 to 1.
        val_loss: cross-entropy on val.
        interval: of the schedule, in epochs; None where it has none.
        searches: so far, this epoch's included.
        sites_changed: by this epoch's search; None where there was none.
        params: of the model after the epoch.
        macs: of one image, likewise.
        clocks: seconds by span, as `Clock.lap` gives them.
        unreadable: images left out so far.
        wall_s: seconds that the whole epoch took.
    """
    images = trained.get("images")
    return {
        "phase": phase,
        "epoch": epoch,
        "step_epoch": step_epoch,
        # None where nothing is trained.
        **{name: trained.get(name) for name in ("loss", "base_loss", "lr", "align_weight")},
        "val_acc": val_acc,
        "val_loss": val_loss,
        "interval": interval,
        "searched": sites_changed is not None,
        "searches": searches,
        "sites_changed": sites_changed,
        "params": params,
        "macs": macs,
        **clocks,
        "images_per_s": None if images is None else images / clocks["train_s"],
        "unreadable": unreadable,
        "wall_s": wall_s,
    }


def search_row(
    report: SearchReport,
    budget: Budget,
    distance: float | None,
    changed: list[str],
    seconds: float,
) -> Row:
    """The row of a search, as JSON-able data.

    Args:
        report: of the strategy.
        budget: target of the search.
        distance: from the plan in force to the plan found; None without a plan in force.
        changed: sites whose decision the search changed.
        seconds: duration of the search, calibration and rebuilding included.
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
    """The log line of an epoch's row."""
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
    """The summary of a trial's rows.

    Args:
        epochs: all rows of epochs.
        searches: all rows of searches.
        plan: in force at the end.
        last: seconds by span since the last row.
    """
    return {
        "val_acc": epochs[-1]["val_acc"] if epochs else None,
        "epochs": len(epochs),
        "searches": len(searches),
        "search_epochs": [row["epoch"] for row in searches],
        "plan": dict(plan.decisions),
        **{name: last[name] + sum(row[name] for row in epochs) for name in last},
    }
