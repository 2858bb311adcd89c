"""Explorations without training: the rows of a trial follow from its configuration."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from study.exploration import Dimension, Exploration, Stopping
from study.schema import Arm, Experiment, Status, TrialSpec, Workload
from study.store import EPOCHS, Results

ROWS = 4


def make_exploration(**changes: Any) -> Experiment:
    """Two references, one of which the space cannot express, and a conditional parameter."""
    space = (
        Dimension(name="growth", setting="schedule.growth", kind="float", low=1.0, high=4.0),
        Dimension(name="capped", kind="choice", choices=(False, True)),
        Dimension(
            name="cap", setting="schedule.max_interval", kind="int", low=2, high=9,
            when={"capped": True},
        ),
    )  # fmt: skip
    exploration: dict[str, Any] = {
        "space": space,
        "objectives": ("val_acc", "searches"),
        "samples": 6,
        "start": 2,
        "overrides": {"schedule": {"kind": "adaptive"}},
        "points": {"usual": {"growth": 2.0, "capped": False}},
        "stopping": Stopping(rungs=(1, 2)),
    }
    seeds = changes.pop("seeds", (0, 1))
    arms = {"usual": "adaptive", "once": "once"}
    return Experiment(
        name="exploring",
        question="Which?",
        workload=Workload(name="made_up", description="rows out of nothing"),
        arms=tuple(
            Arm(name=name, label=name, overrides={"schedule": {"kind": kind}})
            for name, kind in arms.items()
        ),
        seeds=seeds,
        exploration=Exploration(**(exploration | changes)),
    )


def made_up_rows(spec: TrialSpec) -> list[dict[str, Any]]:
    """Fewer searches with more growth, the best accuracy at a growth of 3; seeds differ."""
    schedule = spec.config["schedule"]
    growth = 4.5 if schedule["kind"] == "once" else schedule.get("growth", 2.0)
    cap = schedule.get("max_interval") or 0
    accuracy = 0.9 - 0.02 * (growth - 3) ** 2 + 0.001 * cap + 0.01 * spec.seed
    return [
        {
            "step_epoch": epoch,
            "val_acc": accuracy * (epoch + 1) / ROWS,
            "searches": round((5 - growth) * (epoch + 1)) + spec.seed,
            "params": 100,
        }
        for epoch in range(ROWS)
    ]


class Driver:
    """Runs what a searcher suggests, one arm after the other, without Ray."""

    def __init__(self, search: Any, results: Results) -> None:
        self.search, self.results = search, results
        self.arms: list[str] = []

    def ask(self) -> list[TrialSpec] | None:
        """The specs of the next arm; None when nothing is left."""
        suggested = self.search.suggest(f"tune-{len(self.arms)}")
        if suggested == "FINISHED":
            return None
        specs = [TrialSpec.model_validate(spec) for spec in suggested["specs"]]
        self.arms.append(specs[0].arm)
        return specs

    def end(self, specs: Sequence[TrialSpec], status: Status = "finished", **told: Any) -> None:
        """Write what the trials of an arm leave, and say that it is over."""
        for spec in specs:
            rows = made_up_rows(spec)[: 2 if status == "stopped" else None]
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            (self.results.folder(spec.trial_id) / EPOCHS).write_text(text)
            self.results.update(
                spec.trial_id, status,
                provenance={"git_commit": "c0ffee"},
                error="ValueError: broken\n\nTraceback" if status == "failed" else None,
                stopped={"rung": 2} if status == "stopped" else None,
            )  # fmt: skip
        self.search.on_trial_complete(f"tune-{len(self.arms) - 1}", **told)

    def run(self, status: Callable[[TrialSpec], Status] = lambda spec: "finished") -> None:
        """Run everything that is left; references always finish."""
        while (specs := self.ask()) is not None:
            reference = not specs[0].arm.startswith("c_")
            self.end(specs, "finished" if reference else status(specs[0]))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """An empty results directory."""
    return Results(tmp_path / "results")


@pytest.fixture
def exploration() -> Callable[..., Experiment]:
    """Makes a small exploration; arguments replace its fields."""
    return make_exploration


@pytest.fixture
def drive(results: Results) -> Callable[[Experiment], Driver]:
    """Starts a driver of an exploration on the results directory."""

    def start(experiment: Experiment) -> Driver:
        from study.search import StudySearch

        return Driver(StudySearch(experiment, results), results)

    return start
