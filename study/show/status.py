"""Status page of a results directory (`--status`), during a run or after it; needs no Ray."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adacomcat.config import leakage_note
from adacomcat.io.run import FINAL, Status
from study.explore.outcome import arm_status, on_front, read_outcome
from study.show.progress import STYLES
from study.spec.expand import expand
from study.spec.exploration import Exploration
from study.spec.schema import Experiment
from study.store import Results


@dataclass
class _Arm:
    """An arm and its trials, one a seed."""

    name: str
    label: str
    seeds: int
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Trial id -> record; {} for none."""

    def statuses(self) -> list[Status]:
        there: list[Status] = [r["status"] if r else "pending" for r in self.trials.values()]
        # A kill between the records of two seeds leaves one without. But an arm that was stopped
        # does not get the seeds of an extension.
        lacking = 0 if "stopped" in there else self.seeds - len(there)
        pending: list[Status] = ["pending"] * lacking
        return there + pending

    def mean(self, name: str) -> str:
        """Mean of a figure of the summaries over the finished seeds."""
        ended = [r for r in self.trials.values() if r and r["status"] == "finished"]
        values = [record["summary"].get(name) for record in ended]
        known = [value for value in values if value is not None]
        if not known:
            return ""
        mean = float(np.mean(known))
        if name.endswith("_acc"):
            return f"{mean:.2%}"
        return f"{mean:,.0f}" if mean >= 1000 else f"{mean:.3g}"


def describe(results: Results, experiment: Experiment) -> RenderableType:
    """The experiment, the state of each arm, the front, and failed trials.

    Raises:
        ValueError: files that do not read, or that a newer version wrote.
    """
    records = results.trials()
    arms = _arms(experiment, records)
    failures = _failures(records, results)
    parts: list[RenderableType] = [_head(experiment, results, arms), Text("")]
    parts.append(_table(experiment, results, arms))
    return Group(*parts, *([Text(""), *failures] if failures else []))


def _arms(experiment: Experiment, records: Sequence[dict[str, Any]]) -> list[_Arm]:
    """The arms of the experiment in its order, then those that were suggested, as they began."""
    seeds = len(experiment.seeds)
    arms = {arm.name: _Arm(arm.name, arm.label, seeds) for arm in experiment.arms}
    for spec in expand(experiment):
        arms[spec.arm].trials[spec.trial_id] = {}
    # One that waits has not begun; the id makes the order the same every time.
    for record in sorted(records, key=lambda r: (r["started"] or "~", r["trial_id"])):
        arm = arms.setdefault(record["arm"], _Arm(record["arm"], record["label"], seeds))
        arm.trials[record["trial_id"]] = record
    return list(arms.values())


def _head(experiment: Experiment, results: Results, arms: Sequence[_Arm]) -> Table:
    study = results.study()
    counts = Counter(status for arm in arms for status in arm.statuses())
    rows = {
        "experiment": f"{experiment.name} on {experiment.workload.name}",
        "question": experiment.question,
        "started": f"{study['started']} by {study['command']}",
        "driver": _driver(experiment, results, counts),
        "trials": ", ".join(f"{counts[s]} {s}" for s in get_args(Status) if counts[s]),
    }
    uses = [spec.leakage for spec in expand(experiment)]
    uses += [trial.get("leakage", ()) for arm in arms for trial in arm.trials.values()]
    notes = {leakage_note(each) for each in uses} - {""}
    if notes:
        rows["note"] = "; ".join(sorted(notes))
    if experiment.exploration is not None:
        suggested = arms[len(experiment.arms) :]
        over = {*FINAL, "failed"}
        ended = sum(over.issuperset(arm.statuses()) for arm in suggested)
        rows["samples"] = f"{ended} of {experiment.exploration.samples} ended"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


def _driver(experiment: Experiment, results: Results, counts: Mapping[Status, int]) -> str:
    if results.has_driver():
        return "at work"
    if _is_left(experiment, results, counts):
        return f"none; to go on: --resume {results.root}"
    return "none, and nothing is left"


def _is_left(experiment: Experiment, results: Results, counts: Mapping[Status, int]) -> bool:
    """Whether a resume has something to run."""
    if experiment.exploration is None:
        return any(counts[status] for status in counts if status not in FINAL)
    from study.explore.optuna_study import left, read_study

    # What is still to be suggested, and that a failure was told for good, Optuna knows.
    try:
        return left(experiment, read_study(experiment, results)) > 0
    except ValueError:  # Nothing has been suggested.
        return True


def _table(experiment: Experiment, results: Results, arms: Sequence[_Arm]) -> Table:
    """A row for each arm; `*` marks the front of an exploration."""
    exploration = experiment.exploration
    figures = exploration.objectives if exploration else ("val_acc", "searches")
    front = _front(arms, exploration, results) if exploration else set()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    for name in ("arm", "", "seeds"):
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("label", ratio=1, no_wrap=True, overflow="ellipsis")
    for arm in arms:
        style = STYLES.get(arm_status(arm.statuses()), "")
        table.add_row(
            arm.name,
            Text("*" if arm.name in front else "", style="bold green"),
            Text(_seeds(arm, results), style=style),
            *map(arm.mean, figures),
            Text(arm.label),
        )
    return table


def _seeds(arm: _Arm, results: Results) -> str:
    """Seeds by status, with the progress of unfinished ones: `1 finished, 1 running 5/24`."""
    words = []
    counts = Counter(arm.statuses())
    for status in (status for status in get_args(Status) if counts[status]):
        ids = [i for i, record in arm.trials.items() if record and record["status"] == status]
        far = ""
        if status in ("running", "interrupted"):
            config = arm.trials[ids[0]]["config"]
            total = config["search_phase"]["epochs"] + config["finetune"]["epochs"]
            epochs = sorted({len(results.epochs(trial_id)) for trial_id in ids})
            far = f" {'-'.join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))}/{total}"
        elif status == "stopped":
            far = f" at {arm.trials[ids[0]]['stopped']['rung']}"
        words.append(f"{counts[status]} {status}{far}")
    return ", ".join(words)


def _front(arms: Sequence[_Arm], exploration: Exploration, results: Results) -> set[str]:
    """Names of the finished arms that no other dominates."""
    values = [
        read_outcome(list(arm.trials), exploration, results).values
        if set(arm.statuses()) == {"finished"}
        else None
        for arm in arms
    ]
    flags = on_front(values, exploration.objectives)
    return {arm.name for arm, flag in zip(arms, flags, strict=True) if flag}


def _failures(records: Sequence[Mapping[str, Any]], results: Results) -> list[Text]:
    """A line for each arm and reason, since the seeds of an arm mostly fail of the same."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record["status"] == "failed":
            reason = (record["error"] or "no reason recorded").partition("\n")[0]
            seeds.setdefault((record["arm"], reason), []).append(f"s{record['seed']}")
    # Whatever a message holds, it is no markup.
    lines = [
        Text(f"failed: {arm} {', '.join(which)}: {reason}", style="red")
        for (arm, reason), which in seeds.items()
    ]
    where = Text(f"tracebacks: {results.folder('*') / 'trial.json'}")
    return [*lines, where] if lines else []
