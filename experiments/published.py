"""The log of the published run as a results directory; nothing is trained.

DeiT-Small on ImageNet, 30 epochs of the adaptive schedule, one seed, searched and selected on the
images that it reports on.

    study/traces/published_deit_small_trace.csv   one row per epoch, as in the log
    study/traces/published_deit_small_ranks.csv   one row per site and search

What the log does not contain is None: rebuilding time, MACs, parameters before the first search,
and the logits of the searches.
"""

import csv
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import study
from adacomcat.checks import require
from adacomcat.io.run import now
from adacomcat.io.trace import TraceWriter
from adacomcat.plan import Plan
from study.spec.schema import Arm, Experiment, Workload
from study.store import Results

WORKLOAD = "deit_small_imagenet_upstream"
"""The only workload that was published."""
TRACES = Path(study.__file__).parent / "traces"
TRACE, RANKS = "published_deit_small_trace.csv", "published_deit_small_ranks.csv"
SEARCH_IMAGES = 50_000
"""ImageNet's validation images, which the published searches used."""
CLOCKS = ("train_s", "search_s", "eval_s", "wall_s")


def experiment(workload: Workload, seeds: int = 1) -> Experiment:
    """The one arm that was published.

    Args:
        workload: `deit_small_imagenet_upstream`.
        seeds: 1.

    Raises:
        ValueError: more seeds.
    """
    require(seeds == 1, "--seeds", seeds, "1: no other run was published")
    overrides = {"schedule": {"kind": "adaptive"}, "finetune.epochs": 0}
    return Experiment(
        name="published",
        question="What did the published run do?",
        workload=workload,
        arms=(Arm(name="adaptive", label="adaptive (published)", overrides=overrides),),
        seeds=(0,),
        figures=("fig_intervals", "fig_ranks", "fig_time"),
    )


def record(results: Results, trial_id: str) -> None:
    """Write the log as the trace of a finished trial.

    Args:
        results: a study of this experiment.
        trial_id: its only trial.
    """
    log = _read(TRACE)
    epochs, searches = _epoch_rows(log), _search_rows(log)
    source = {"read_from": TRACE}
    results.update(trial_id, "running", started=now(), provenance=source)
    with closing(TraceWriter(results.folder(trial_id))) as writer:
        for row in searches:
            writer.search(row)
        for row in epochs:
            writer.epoch(row)
    results.update(trial_id, "finished", finished=now(), summary=_summary(epochs, searches))


def plans() -> dict[int, Plan]:
    """Epoch -> plan after its search, in ascending order."""
    ranks: dict[int, dict[str, int | None]] = defaultdict(dict)
    for row in _read(RANKS):
        block, kind = row["block"], row["kind"]
        site = kind if block is None else f"blocks.{block}.{kind}"
        ranks[int(row["epoch"])][site] = int(row["rank"])
    return {epoch: Plan("lowrank", decisions) for epoch, decisions in ranks.items()}


def _read(name: str) -> list[dict[str, Any]]:
    """The rows of a trace, with numbers instead of text and None for empty fields."""
    with (TRACES / name).open(newline="") as file:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def _epoch_rows(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows, searches, params = [], 0, None
    for logged in log:
        searches += logged["searched"]
        params = logged["params"] or params
        clocks = {
            "train_s": logged["train_seconds"],
            "search_s": logged["search_seconds"] or 0,
            "eval_s": logged["val_seconds"],
        }
        row = {
            "phase": "search",
            "epoch": logged["epoch"],
            "step_epoch": logged["epoch"],
            "loss": logged["total_loss"],
            "val_acc": logged["acc1"] / 100,
            "searched": bool(logged["searched"]),
            "searches": searches,
            "params": params,
            **clocks,
            "wall_s": sum(clocks.values()),
        }
        copied = ("base_loss", "val_loss", "lr", "align_weight", "interval", "sites_changed")
        absent = dict.fromkeys(("macs", "rebuild_s", "data_s", "images_per_s"))
        rows.append({**row, **{name: logged[name] for name in copied}, **absent})
    return rows


def _search_rows(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    found, before = plans(), None
    for logged in (row for row in log if row["searched"]):
        plan = found[logged["epoch"]]
        row = {
            "index": len(rows),
            "epoch": logged["epoch"],
            "loss": logged["search_loss"],
            "accuracy": logged["search_acc1"] / 100,
            "expected_cost": logged["soft_params"],
            "target_cost": logged["target_params"],
            "unit": "params",
            "distance": None if before is None else plan.distance(before),
            "changed": list(plan.decisions if before is None else plan.changed(before)),
            "plan": dict(plan.decisions),
            "logits": {},
            "seconds": logged["search_seconds"],
            "images": SEARCH_IMAGES,
        }
        rows.append({**row, **dict.fromkeys(("temperature", "plan_cost", "steps"))})
        before = plan
    return rows


def _summary(epochs: list[dict[str, Any]], searches: list[dict[str, Any]]) -> dict[str, Any]:
    last = epochs[-1]
    absent = ("macs", "rebuild_s", "data_s", "dense_test_acc", "dense_params", "dense_macs")
    return {
        # The published run reports on the images that it searched and selected on.
        "test_acc": last["val_acc"],
        "test_loss": last["val_loss"],
        "val_acc": last["val_acc"],
        "searches": len(searches),
        "search_epochs": [row["epoch"] for row in searches],
        "params": last["params"],
        "plan": searches[-1]["plan"],
        **{name: sum(row[name] for row in epochs) for name in CLOCKS},
        **dict.fromkeys(absent),
    }
