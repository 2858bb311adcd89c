import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adacomcat.io.run import Status
from adacomcat.io.trace import TraceWriter
from study.show.status import describe
from study.spec.expand import arm_specs, expand, suggested_arm
from study.spec.exploration import Dimension, Exploration, Stopping
from study.spec.schema import Arm, Experiment, TrialSpec
from study.store import Results


def begun(root: Path, experiment: Experiment) -> Results:
    results = Results(root)
    results.begin(experiment, command="study/run.py --experiment x", provenance={})
    return results


def record(
    results: Results,
    spec: TrialSpec,
    status: Status,
    *,
    epochs: int = 0,
    started: str = "2025-01-01T00:00:00+00:00",
    val_acc: float = 0.5,
    searches: int = 1,
    **changes: Any,
) -> None:
    """What a trial would leave in the store."""
    results.add(spec)
    writer = TraceWriter(results.folder(spec.trial_id))
    for epoch in range(epochs):
        writer.epoch({"step_epoch": epoch, "searches": searches, "val_acc": val_acc})
    writer.close()
    if status == "finished":
        changes["summary"] = {"val_acc": val_acc, "searches": searches}
    results.update(spec.trial_id, status, started=started, **changes)


def page(results: Results, experiment: Experiment, width: int = 120) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width)
    console.print(describe(results, experiment))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def line(lines: list[str], start: str) -> str:
    """The first line about something, its gaps closed."""
    return " ".join(next(text for text in lines if text.startswith(f"{start} ")).split())


@pytest.fixture
def grid(tiny_experiment: Experiment) -> Experiment:
    arms = (*tiny_experiment.arms[:2], Arm(name="none", label="", overrides={"search.lr": 1.0}))
    return tiny_experiment.model_copy(update={"arms": arms, "seeds": (0, 1, 2)})


def test_a_study_that_has_not_run_is_all_pending(tmp_path: Path, grid: Experiment) -> None:
    lines = page(begun(tmp_path, grid), grid)
    assert line(lines, "experiment") == "experiment tiny_experiment on tiny"
    assert line(lines, "question") == "question Does it run?"
    assert line(lines, "started").endswith(" by study/run.py --experiment x")
    assert line(lines, "driver") == f"driver none; to go on: --resume {tmp_path}"
    assert line(lines, "trials") == "trials 9 pending"
    assert line(lines, "each") == "each 3 pending each"
    assert not [text for text in lines if text.startswith(("samples", "front", "failed"))]


def test_every_seed_of_every_arm_is_counted(tmp_path: Path, grid: Experiment) -> None:
    results = begun(tmp_path, grid)
    specs = {(spec.arm, spec.seed): spec for spec in expand(grid)}
    # 3 epochs of search and 1 of finetuning.
    record(results, specs["each", 0], "finished", epochs=4, val_acc=0.9, searches=3)
    record(results, specs["each", 1], "finished", epochs=4, val_acc=0.8, searches=2)
    record(results, specs["each", 2], "running", epochs=3)
    record(results, specs["once", 0], "running", epochs=1)
    record(results, specs["once", 1], "running", epochs=2)
    record(results, specs["once", 2], "interrupted", epochs=3)
    error = "OutOfMemoryError: [red]no[/red] memory\n\nTraceback"
    for seed in (0, 2):
        record(results, specs["none", seed], "failed", epochs=2, error=error)
    lines = page(results, grid)
    assert line(lines, "trials") == (
        "trials 1 pending, 3 running, 2 finished, 2 failed, 1 interrupted"
    )
    assert line(lines, "each") == "each 1 running 3/4, 2 finished 85.00% 2.5 each"
    assert line(lines, "once") == "once 2 running 1-2/4, 1 interrupted 3/4 once"
    assert line(lines, "none") == "none 1 pending, 2 failed"
    assert line(lines, "failed:") == "failed: none s0, s2: OutOfMemoryError: [red]no[/red] memory"
    assert line(lines, "tracebacks:") == f"tracebacks: {tmp_path}/trials/*/trial.json"
    assert not [text for text in lines if "Traceback" in text]


def test_a_driver_at_work_is_told(tmp_path: Path, grid: Experiment) -> None:
    results = begun(tmp_path, grid)
    with results.locked():
        assert line(page(results, grid), "driver") == "driver at work"
    assert line(page(results, grid), "driver").startswith("driver none; to go on:")


def exploring(experiment: Experiment) -> Experiment:
    growth = Dimension(name="growth", setting="schedule.growth", kind="float", low=1, high=4)
    exploration = Exploration(
        space=(growth,),
        objectives=("val_acc", "searches"),
        samples=12,
        overrides={"schedule": {"kind": "adaptive"}},
        stopping=Stopping(rungs=(2,)),
    )
    change = {"arms": experiment.arms[:2], "seeds": (0, 1), "exploration": exploration}
    return experiment.model_copy(update=change)


def test_the_front_of_an_exploration_is_that_of_means(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    experiment = exploring(tiny_experiment)
    results = begun(tmp_path, experiment)
    specs = expand(experiment)
    # Arm -> accuracy and searches of both seeds; by the means, `b` alone is dominated (by `a`).
    for spec in specs:
        good = spec.arm == "each"
        record(results, spec, "finished", epochs=4, val_acc=0.9 if good else 0.6, searches=3)
    points = {"a": ((0.7, 2), (0.7, 1)), "b": ((0.8, 1), (0.5, 3)), "c": ((0.65, 1), (0.65, 1))}
    arms = {}
    for place, (name, figures) in enumerate(points.items()):
        arm = suggested_arm(experiment, {"growth": 1.5 + place})
        arms[name] = arm.name
        for spec, (accuracy, searches) in zip(arm_specs(experiment, arm), figures, strict=True):
            record(
                results,
                spec,
                "finished",
                epochs=4,
                val_acc=accuracy,
                searches=searches,
                started=f"2025-01-02T00:00:0{place}+00:00",
            )
    late = "2025-01-03T00:00:00+00:00"
    stopped = suggested_arm(experiment, {"growth": 3.75})
    for spec in arm_specs(experiment, stopped):
        # Its figures would be on the front, had it not been stopped.
        record(
            results,
            spec,
            "stopped",
            epochs=2,
            val_acc=0.99,
            searches=0,
            started=late,
            stopped={"rung": 2},
        )
    half = arm_specs(experiment, suggested_arm(experiment, {"growth": 4.0}))
    record(results, half[0], "finished", epochs=4, val_acc=0.99, searches=0, started=late)

    lines = page(results, experiment)
    # `half` has one seed in the store: its other one was never added.
    assert line(lines, "samples") == "samples 4 of 12 ended"
    assert line(lines, "each") == "each * 2 finished 90.00% 3 each"
    assert line(lines, "once") == "once 2 finished 60.00% 3 once"
    assert line(lines, stopped.name) == f"{stopped.name} 2 stopped at 2 growth 3.75"
    assert line(lines, arms["a"]) == f"{arms['a']} * 2 finished 70.00% 1.5 growth 1.5"
    assert line(lines, arms["b"]) == f"{arms['b']} 2 finished 65.00% 2 growth 2.5"
    assert line(lines, arms["c"]) == f"{arms['c']} * 2 finished 65.00% 1 growth 3.5"
    assert sum("*" in text for text in lines) == 3
    # The suggested arms in the order in which they began.
    shown = [text.split()[0] for text in lines if text.startswith("c_")]
    assert shown[:3] == [arms["a"], arms["b"], arms["c"]]


@pytest.mark.parametrize("width", [80, 120])
def test_a_page_keeps_to_its_width_and_shows_the_figures(
    width: int, tmp_path: Path, grid: Experiment
) -> None:
    long = Arm(name="with_a_long_name", label="word " * 40, overrides={"search.lr": 2.0})
    grid = grid.model_copy(update={"arms": (*grid.arms, long)})
    results = begun(tmp_path, grid)
    for spec in expand(grid):
        record(results, spec, "finished", epochs=4, val_acc=0.8125)
    lines = page(results, grid, width)
    assert max(map(len, lines)) <= width
    assert line(lines, "with_a_long_name").startswith("with_a_long_name 3 finished 81.25% 1 word")
    assert line(lines, "driver") == "driver none, and nothing is left"
