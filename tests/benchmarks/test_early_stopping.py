"""The benchmark as a program, on results directories that were made up."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from study.execution.provenance import repository
from study.spec.expand import expand
from study.spec.exploration import Dimension, Exploration
from study.spec.schema import Arm, Experiment, Workload
from study.store import Results, TraceWriter

EPOCHS = 6
Trace = Sequence[tuple[float, int]]
"""val_loss and searches, epoch by epoch."""


def steady(loss: float, searches: int) -> Trace:
    return [(loss, searches)] * EPOCHS


def experiment(arms: Sequence[str], seeds: int) -> Experiment:
    return Experiment(
        name="made_up",
        question="?",
        workload=Workload(name="none", description="nothing runs"),
        arms=tuple(_arm(arm, index) for index, arm in enumerate(arms)),
        seeds=tuple(range(seeds)),
        exploration=Exploration(
            space=(Dimension(name="lr", setting="search.lr", kind="float", low=0.1, high=1),),
            objectives=("val_loss", "searches"),
            samples=1,
        ),
    )


def _arm(name: str, index: int) -> Arm:
    return Arm(name=name, label=name, overrides={"search": {"steps": index + 1}})


def full_run(root: Path, arms: Mapping[str, Sequence[Trace]], references: int) -> Path:
    """A results directory of a study in which every arm was finished.

    Args:
        root: the folder.
        arms: name -> a trace a seed, in the order in which they started.
        references: how many of the first are the experiment's own.
    """
    seeds = len(next(iter(arms.values())))
    known = experiment(list(arms)[:references], seeds)
    results = Results(root)
    results.begin(known, command="run", provenance={})
    # The names go backwards in the alphabet: it is the time that orders them.
    order = {arm: f"2030-01-01T00:00:{index:02d}+00:00" for index, arm in enumerate(arms)}
    for spec in expand(experiment(list(arms), seeds)):
        results.add(spec)
        writer = TraceWriter(results.folder(spec.trial_id))
        for epoch, (loss, searches) in enumerate(arms[spec.arm][spec.seed]):
            writer.epoch({"step_epoch": epoch, "val_loss": loss, "searches": searches})
        writer.close()
        results.update(spec.trial_id, "finished", started=order[spec.arm])
    return root


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    script = repository() / "benchmarks" / "early_stopping.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=repository())


def report(tmp_path: Path, *arguments: Any) -> dict[str, Any]:
    done = run(*arguments, "--output", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    return found | {"printed": done.stdout}


RULE = ("--rungs", "2,4", "--keep", "0.25", "--peers", "2", "--margin", "0")


def test_epochs_and_hypervolume_are_those_counted_by_hand(tmp_path):
    late = [(0.3, 1)] * 3 + [(0.9, 4)] * 3
    root = full_run(
        tmp_path / "run",
        {
            "z_best": [steady(0.2, 1), steady(0.4, 1)],  # A reference, (0.3, 1) in the mean.
            "y_bad": [steady(0.9, 5), steady(0.7, 7)],  # Stopped at 2: (0.8, 6).
            "x_late": [late, late],  # Equal to the reference at 2, stopped at 4.
            "w_cheap": [steady(0.5, 0), steady(0.5, 0)],  # On the front.
        },
        references=1,
    )
    found = report(tmp_path, "--results", root, *RULE)
    (only,) = found["repetitions"]
    assert only["stopped"] == {"y_bad": 2, "x_late": 4}
    assert (only["epochs_full"], only["epochs_run"]) == (2 * 24, 2 * (24 - 4 - 2))
    assert only["saved"] == pytest.approx(1 - 18 / 24)
    assert (only["hypervolume"], only["gain_kept"]) == (1, 1)
    # Scaled losses: z (0, 1/6), w (1/3, 0), y and x are dominated. Of the three suggested arms two
    # are drawn; w is among them two times of three, and then its strip is lost.
    z, strip = 1.1 * (1.1 - 1 / 6), (1.1 - 1 / 3) / 6
    assert only["random_hypervolume"] == pytest.approx(1 - 2 / 3 * strip / (z + strip), abs=0.02)
    assert "at least 40% in each: MISSED" in found["printed"]
    # By the loss alone nobody is better than the reference.
    loss_alone = report(tmp_path, "--results", root, *RULE, "--objectives", "val_loss")
    (only,) = loss_alone["repetitions"]
    assert only["stopped"] == {"y_bad": 2, "x_late": 4, "w_cheap": 2}
    assert only["hypervolume"] == 1 and only["gain_kept"] is None
    assert "no gain" in loss_alone["printed"]
    assert found["provenance"]["versions"]["python"]


def test_what_is_stopped_by_mistake_is_missed(tmp_path):
    early = [(0.5, 3)] * 4 + [(0.0, 3)] * 2
    arms = {"z_best": [steady(0.4, 1)], "y_turns": [early], "x_far": [steady(1.0, 6)]}
    root = full_run(tmp_path / "run", arms, references=1)
    (only,) = report(tmp_path, "--results", root, *RULE)["repetitions"]
    assert only["stopped"] == {"y_turns": 2, "x_far": 2}
    # Scaled losses: z (0.4, 0), y (0, 0.4).
    z, strip = 0.7 * 1.1, 0.4 * 0.7
    assert only["hypervolume"] == pytest.approx(z / (z + strip))
    assert only["gain_kept"] == 0


def test_arms_are_judged_in_the_order_in_which_they_started(tmp_path):
    # Each arm is beaten by those before it, and with three peers the second is not judged.
    losses = dict(zip("dcba", (0.1, 0.2, 0.3, 0.4), strict=True))
    for name, order, stopped in (("worse", "dcba", {"b": 2, "a": 2}), ("better", "abcd", {})):
        arms = {arm: [steady(losses[arm], 1)] for arm in order}
        root = full_run(tmp_path / name, arms, references=1)
        (only,) = report(tmp_path, "--results", root, *RULE, "--peers", 3)["repetitions"]
        assert only["stopped"] == stopped


def test_sweep_tells_of_every_rule_the_worst_repetition(tmp_path):
    good = {"z": [steady(0.1, 1)]}
    bad = {f"bad_{n}": [steady(0.2 + n / 10, 2 + n)] for n in range(6)}
    runs = [
        full_run(tmp_path / "many", good | bad, references=1),
        full_run(tmp_path / "one", good, references=1),
    ]
    found = report(tmp_path, "--results", *runs, "--rungs", "2,4", "--sweep")
    assert {row["saved"] for row in found["sweep"]} == {0}
    found = report(tmp_path, "--results", runs[0], "--rungs", "2,4", "--sweep")
    by_rule = {(row["keep"], row["margin"], row["peers"]): row["saved"] for row in found["sweep"]}
    assert by_rule[0.25, 0.0, 3] > by_rule[0.25, 0.0, 6] > 0


def test_a_run_that_is_not_whole_is_refused(tmp_path):
    root = full_run(tmp_path / "run", {"a": [steady(0.1, 1)], "b": [steady(0.2, 1)]}, 1)
    results = Results(root)
    trial_id = results.trials()[1]["trial_id"]
    results.update(trial_id, "stopped")
    done = run("--results", root)
    assert done.returncode != 0 and trial_id in done.stderr and "--no-stopping" in done.stderr
    results.update(trial_id, "finished")
    done = run("--results", root, "--objectives", "val_los")
    assert done.returncode != 0 and "did you mean 'val_loss'?" in done.stderr
    done = run("--results", root, "--rungs", "2,6")
    assert done.returncode != 0 and "--rungs: got (2, 6), allowed: below 6" in done.stderr
