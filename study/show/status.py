"""What stands where in a results directory: a page, without Ray, while a study runs or after."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adacomcat.config import leakage_note
from adacomcat.io.run import FINAL, Status
from study.explore.outcome import arm_status, on_front, read_outcome
from study.show.monitor import STYLES, count
from study.spec.expand import expand
from study.spec.exploration import Exploration
from study.spec.objectives import losses
from study.spec.schema import Experiment
from study.store import Results

UNDER_WAY = ("running", "interrupted")


Front = Sequence[tuple["_Arm", tuple[float, ...]]]
"""Arms and their objectives, each in its own direction."""


@dataclass
class _Arm:
    """An arm and its trials, one a seed, of which some may have no record yet."""

    name: str
    label: str
    seeds: int
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Trial id -> record; {} for none."""

    def statuses(self) -> list[Status]:
        there: list[Status] = [r["status"] if r else "pending" for r in self.trials.values()]
        # A kill between the records of two seeds leaves one without. But an arm that was stopped
        # does not get the seeds of an extension.
        count = 0 if "stopped" in there else self.seeds - len(there)
        lacking: list[Status] = ["pending"] * count
        return there + lacking

    def mean(self, name: str) -> float | None:
        """Of a figure of the summaries, over the finished seeds; None where there is none."""
        ended = [r for r in self.trials.values() if r and r["status"] == "finished"]
        values = [record["summary"][name] for record in ended]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None


def describe(results: Results, experiment: Experiment) -> RenderableType:
    """The page of `--status`: what is asked, how far each arm is, what failed, the front so far.

    Raises:
        ValueError: files that do not read, or that a newer version wrote.
    """
    records = results.trials()
    arms = _arms(experiment, records)
    exploration = experiment.exploration
    front = _front(arms, exploration, results) if exploration else []
    parts: list[RenderableType] = [
        _head(experiment, results, arms),
        _arm_table(arms, results, {arm.name for arm, _ in front}),
    ]
    if exploration is not None and front:
        parts.append(_front_table(front, exploration))
    failures = _failures(records, results)
    if failures:
        parts.append(Group(*failures))
    spaced = [part for each in parts for part in (each, Text(""))]
    return Group(*spaced[:-1])


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
    tally = ", ".join(f"{counts[s]} {s}" for s in get_args(Status) if counts[s])
    rows = {
        "experiment": f"{experiment.name} on {experiment.workload.name}",
        "question": experiment.question,
        "started": f"{study['started']} by {study['command']}",
        "driver": _driver(results, _is_left(experiment, results, counts)),
        "trials": tally,
    }
    uses = [spec.leakage for spec in expand(experiment)]
    uses += [trial.get("leakage", ()) for arm in arms for trial in arm.trials.values()]
    notes = {leakage_note(each) for each in uses} - {""}
    if notes:
        rows["note"] = "; ".join(sorted(notes))
    exploration = experiment.exploration
    if exploration is not None:
        over = {*FINAL, "failed"}
        suggested = arms[len(experiment.arms) :]
        ended = sum(all(status in over for status in arm.statuses()) for arm in suggested)
        rows["samples"] = f"{ended} of {exploration.samples} ended"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


def _driver(results: Results, is_left: bool) -> str:
    if results.has_driver():
        return "at work"
    return f"none; to go on: --resume {results.root}" if is_left else "none, and nothing is left"


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


def _arm_table(arms: Sequence[_Arm], results: Results, front: set[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    columns: tuple[tuple[str, Literal["left", "right"]], ...] = (
        ("arm", "left"),
        ("", "left"),
        ("seeds", "left"),
        ("val", "right"),
        ("searches", "right"),
    )
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)
    table.add_column("label", ratio=1, no_wrap=True, overflow="ellipsis")
    for arm in arms:
        status = arm_status(arm.statuses())
        accuracy, searches = arm.mean("val_acc"), arm.mean("searches")
        table.add_row(
            arm.name,
            Text("*" if arm.name in front else "", style="bold green"),
            Text(_progress(arm, results), style=STYLES.get(status, "")),
            "" if accuracy is None else f"{accuracy:.2%}",
            "" if searches is None else f"{searches:.3g}",
            Text(arm.label),
        )
    return table


def _progress(arm: _Arm, results: Results) -> str:
    """How many seeds stand how, and how far those are that go on: `1 finished, 1 running 5/24`."""
    words = []
    counts = Counter(arm.statuses())
    for status in get_args(Status):
        if not counts[status]:
            continue
        ids = [i for i, record in arm.trials.items() if record and record["status"] == status]
        far = ""
        if status in UNDER_WAY:
            config = arm.trials[ids[0]]["config"]
            total = config["search_phase"]["epochs"] + config["finetune"]["epochs"]
            epochs = sorted(len(results.epochs(trial_id)) for trial_id in ids)
            far = f" {'-'.join(str(e) for e in dict.fromkeys((epochs[0], epochs[-1])))}/{total}"
        elif status == "stopped":
            far = f" at {arm.trials[ids[0]]['stopped']['rung']}"
        words.append(f"{counts[status]} {status}{far}")
    return ", ".join(words)


def _front(arms: Sequence[_Arm], exploration: Exploration, results: Results) -> Front:
    """The finished arms that no other dominates, with their objectives, the best first."""
    found = []
    for arm in arms:
        if all(status == "finished" for status in arm.statuses()):
            values = read_outcome(list(arm.trials), exploration, results).values
            if values is not None:
                found.append((arm, values))
    flags = on_front([values for _, values in found], exploration.objectives)
    kept = [entry for entry, flag in zip(found, flags, strict=True) if flag]
    return sorted(kept, key=lambda entry: losses(entry[1], exploration.objectives))


def _front_table(
    front: Sequence[tuple[_Arm, tuple[float, ...]]], exploration: Exploration
) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    table.add_column("front", no_wrap=True)
    for name in exploration.objectives:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("label", ratio=1, no_wrap=True, overflow="ellipsis")
    for arm, values in front:
        cells = map(_figure, exploration.objectives, values)
        table.add_row(arm.name, *cells, Text(arm.label))
    return table


def _figure(name: str, value: float) -> str:
    if name.endswith("_acc"):
        return f"{value:.2%}"
    return count(round(value)) if value >= 1000 else f"{value:.3g}"


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
