"""Studies that are read, not run: a trace that somebody published, as the files of a trial.

    study/traces/NAME_trace.csv   one row an epoch, as its log had it
    study/traces/NAME_ranks.csv   one row a site and search: epoch, site, block, kind, rank

What the log does not say stays empty: the split of the clocks below training, searching and
evaluating, MACs, the parameters before the first search, and the logits of the searches.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from adacomcat.checks import require_known
from adacomcat.plan import Plan
from study.spec.expand import expand
from study.spec.schema import Experiment
from study.store import Results, TraceWriter, now

TRACES = Path(__file__).parents[1] / "traces"
SUFFIX = "_trace.csv"
SEARCH_IMAGES = 50_000
"""ImageNet's validation images, which the published searches saw."""

Row = Mapping[str, str]


def record_stored(experiment: Experiment, results: Results) -> None:
    """Write the one trial of a stored study, finished, into its results directory.

    Args:
        experiment: with `stored`.
        results: begun with that experiment and its trial.

    Raises:
        ValueError: no such trace.
    """
    assert experiment.stored is not None
    known = [path.name.removesuffix(SUFFIX) for path in TRACES.glob(f"*{SUFFIX}")]
    require_known(experiment.stored, known, "stored")
    (spec,) = expand(experiment)
    epochs = _read(f"{experiment.stored}{SUFFIX}")
    plans = stored_plans(experiment.stored, spec.config["method"]["name"])
    rows, searches = _epoch_rows(epochs), _search_rows(epochs, plans)
    results.update(
        spec.trial_id, "running", started=now(), provenance={"stored": experiment.stored}
    )
    with closing(TraceWriter(results.folder(spec.trial_id))) as writer:
        for search in searches:
            writer.search(search)
        for row in rows:
            writer.epoch(row)
    summary = _summary(rows, searches)
    results.update(spec.trial_id, "finished", finished=now(), summary=summary)


def stored_plans(name: str, method: str) -> dict[int, Plan]:
    """Epoch -> the plan that its search left, in rising order.

    Args:
        name: of a stored trace.
        method: that the plans are of.
    """
    ranks: dict[int, dict[str, int | None]] = defaultdict(dict)
    for row in _read(f"{name}_ranks.csv"):
        site = f"blocks.{row['block']}.{row['kind']}" if row["block"] else row["kind"]
        ranks[int(row["epoch"])][site] = int(row["rank"])
    return {epoch: Plan(method, decisions) for epoch, decisions in ranks.items()}


def _read(name: str) -> list[dict[str, str]]:
    with (TRACES / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _epoch_rows(epochs: Sequence[Row]) -> list[dict[str, Any]]:
    rows, searches, params = [], 0, None
    for row in epochs:
        searched = row["searched"] == "1"
        searches += searched
        params = _int(row["params"]) or params
        train_s, eval_s = float(row["train_seconds"]), float(row["val_seconds"])
        search_s = _float(row["search_seconds"]) or 0.0
        rows.append(
            {
                "phase": "search",
                "epoch": int(row["epoch"]),
                "step_epoch": int(row["epoch"]),
                "loss": float(row["total_loss"]),
                "base_loss": float(row["base_loss"]),
                "val_acc": float(row["acc1"]) / 100,
                "val_loss": float(row["val_loss"]),
                "lr": float(row["lr"]),
                "align_weight": float(row["align_weight"]),
                "interval": float(row["interval"]),
                "searched": searched,
                "searches": searches,
                "sites_changed": _int(row["sites_changed"]),
                "params": params,
                "macs": None,
                "train_s": train_s,
                "search_s": search_s,
                "rebuild_s": None,
                "eval_s": eval_s,
                "data_s": None,
                "images_per_s": None,
                "wall_s": train_s + search_s + eval_s,
            }
        )
    return rows


def _search_rows(epochs: Sequence[Row], plans: Mapping[int, Plan]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    before: Plan | None = None
    for row in (row for row in epochs if row["searched"] == "1"):
        plan = plans[int(row["epoch"])]
        changed = list(plan.decisions if before is None else plan.changed(before))
        rows.append(
            {
                "index": len(rows),
                "epoch": int(row["epoch"]),
                "temperature": None,
                "loss": float(row["search_loss"]),
                "accuracy": float(row["search_acc1"]) / 100,
                "expected_cost": float(row["soft_params"]),
                "target_cost": float(row["target_params"]),
                "plan_cost": None,
                "unit": "params",
                "distance": None if before is None else plan.distance(before),
                "changed": changed,
                "plan": dict(plan.decisions),
                "logits": {},
                "seconds": float(row["search_seconds"]),
                "images": SEARCH_IMAGES,
                "steps": None,
            }
        )
        before = plan
    return rows


def _summary(
    rows: Sequence[Mapping[str, Any]], searches: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    last = rows[-1]
    clocks = {name: sum(row[name] for row in rows) for name in ("train_s", "search_s", "eval_s")}
    return {
        # The published run reports on the images that it searched and selected on.
        "test_acc": last["val_acc"],
        "test_loss": last["val_loss"],
        "val_acc": last["val_acc"],
        "searches": len(searches),
        "search_epochs": [row["epoch"] for row in searches],
        "params": last["params"],
        "macs": None,
        "plan": searches[-1]["plan"],
        **clocks,
        "rebuild_s": None,
        "data_s": None,
        "wall_s": sum(row["wall_s"] for row in rows),
        "dense_test_acc": None,
        "dense_params": None,
        "dense_macs": None,
    }


def _int(text: str) -> int | None:
    return int(text) if text else None


def _float(text: str) -> float | None:
    return float(text) if text else None
