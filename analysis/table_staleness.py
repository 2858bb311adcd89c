"""Staleness of the plan in force, and the cost of a schedule's choice of epochs.

`python analysis/table_staleness.py RESULTS`
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from adacomcat.checks import require
from adacomcat.plan import Plan
from adacomcat.schedule import regret, stale_distance
from analysis import command, load, notes, plans

QUESTION = "How far is the plan in force from what a search at every epoch would propose?"

COLUMNS = (
    *"arm label workload seed reference epoch searched distance searches".split(),
    *"stale_distance regret".split(),
    *notes.COLUMNS,
)

LEGEND = (
    "Distance: from a trial's plan in force to the plan that the trial that always searched (same "
    "seed and settings) found at that epoch; mean over epochs. Stale: the sum over epochs of the "
    "distances that the trial's epochs of search leave on the plans of that other trial. Regret: "
    "that sum less the one of the best epochs of the same number."
)


def data(results: Path) -> pd.DataFrame:
    """One row per epoch of every finished trial that has a reference, with the columns `COLUMNS`.

    The reference is the trial with the same seed and the same settings but for the schedule that
    searched at every epoch from 1 on; `reference` is its arm. `distance` is that of the trial's
    plan in force to the plan that the reference found at that epoch (`Plan.distance`, 0 to 1; 1
    while nothing is compressed). `stale_distance` and `regret` are those of the trial's search
    epochs on the plans of the reference (`adacomcat.schedule.oracle`: sums over epochs, the same in
    all rows of a trial); `regret` is nan for a trial without a search. A trial without a
    reference is one row without an epoch; an arm without a finished trial one without a seed.

    Raises:
        ValueError: as `load.epochs`, no trial has finished, or none searched at every epoch.
    """
    trials = notes.sound(results)
    done = load.finished(trials)
    epochs = load.epochs(results).reindex(columns=["trial_id", "phase", "epoch"])
    epochs = epochs[epochs["phase"] == "search"]
    searches = load.searches(results)
    traces = {
        trial_id: _Trace(
            epochs.loc[epochs["trial_id"] == trial_id, "epoch"].astype(int).tolist(),
            searches[searches["trial_id"] == trial_id].to_dict("records"),
            plan,
        )
        for trial_id, plan in zip(done["trial_id"], done["plan"], strict=True)
    }
    chosen = _references(load.usable(results), traces)
    allowed = "a study with one, of the settings of another arm (fixed_1)"
    got = "no finished trial that searched at every epoch"
    require(bool(chosen), str(results), got, allowed)
    rows: list[dict[str, Any]] = []
    for _, trial in done.iterrows():
        head = {"arm": trial["arm"], "seed": trial["seed"]}
        reference = chosen.get(trial["trial_id"])
        if reference is None:
            rows.append(head)
            continue
        head["reference"] = done.loc[done["trial_id"] == reference, "arm"].iloc[0]
        rows += [head | row for row in _compare(traces[trial["trial_id"]], traces[reference])]
    return notes.attach(trials, pd.DataFrame(rows), COLUMNS)


class _Trace:
    """The plans of a trial: in force at each epoch, and found by each search."""

    def __init__(
        self, epochs: Sequence[int], searches: Sequence[Mapping[str, Any]], final: plans.RankPlan
    ) -> None:
        self.epochs = len(epochs)
        self.found = {int(search["epoch"]): _plan(search["plan"]) for search in searches}
        held = plans.in_force(epochs, searches, final)
        self.held = {epoch: None if p is None else _plan(p) for epoch, p in held.items()}

    @property
    def searched_always(self) -> bool:
        return self.epochs > 1 and sorted(self.found) == list(range(1, self.epochs))


def _plan(decisions: plans.RankPlan) -> Plan:
    # The trials that are compared are of one method; its name plays no part.
    return Plan("recorded", decisions)


def _references(
    records: Mapping[str, Mapping[str, Any]], traces: Mapping[str, _Trace]
) -> dict[str, str]:
    """Trial id -> that of the trial that it is compared with."""
    by_settings: dict[str, str] = {}
    keys = {}
    for trial_id in traces:
        config = {k: v for k, v in records[trial_id]["config"].items() if k != "schedule"}
        keys[trial_id] = json.dumps([int(records[trial_id]["seed"]), config], sort_keys=True)
    # A fixed schedule before one that only came to search always.
    always = [trial_id for trial_id, trace in traces.items() if trace.searched_always]
    always.sort(key=lambda t: records[t]["config"].get("schedule", {}).get("kind") != "fixed")
    for trial_id in always:
        by_settings.setdefault(keys[trial_id], trial_id)
    return {t: by_settings[key] for t, key in keys.items() if key in by_settings}


def _compare(trace: _Trace, reference: _Trace) -> list[dict[str, Any]]:
    """One row per epoch that the reference searched at."""
    found, searched = reference.found, sorted(trace.found)
    whole = {
        "searches": len(searched),
        "stale_distance": stale_distance(found, searched, reference.epochs),
        "regret": regret(found, searched, reference.epochs) if searched else None,
    }
    rows = []
    for epoch, plan in found.items():
        held = trace.held[epoch]
        apart = 1.0 if held is None else held.distance(plan)
        rows.append({"epoch": epoch, "searched": epoch in searched, "distance": apart, **whole})
    return rows


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per arm: means over seeds, and the largest regret of a seed."""
    keys = ["arm", "label", "seed", "searches", "stale_distance", "regret"]
    known = table.dropna(subset=["epoch"])
    trials = known.groupby(keys, sort=False, dropna=False)["distance"].mean().reset_index()
    arms = trials.groupby("arm", sort=False)
    shown = {
        "arm": arms["label"].first(),
        "seeds": arms["seed"].nunique(),
        "searches": arms["searches"].mean().map("{:.1f}".format),
        "distance": arms["distance"].mean().map("{:.4f}".format),
        "stale": arms["stale_distance"].mean().map("{:.3f}".format),
        "regret": arms["regret"].mean().map("{:.3f}".format),
        "largest regret": arms["regret"].max().map("{:.3f}".format),
    }
    return {"": pd.DataFrame(shown).replace("nan", "").reset_index(drop=True)}


def note(table: pd.DataFrame) -> str:
    """Note below the table, as one paragraph."""
    labels = table.drop_duplicates("arm").set_index("arm")["label"]
    references = "; ".join(labels[arm] for arm in table["reference"].dropna().unique())
    bare = table[table["seed"].notna() & table["epoch"].isna()]
    missing = f"{len(bare)} of {', '.join(bare['label'].unique())}"
    parts = [
        LEGEND,
        f"The trials that always searched: {references}.",
        f"Without such a trial to compare with: {missing}." if len(bare) else "",
    ]
    return notes.write(parts, table)


EXHIBITS = (command.Exhibit("table_staleness", QUESTION, data, summarize, note),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
