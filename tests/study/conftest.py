"""Studies to test with: the script itself in processes, and explorations without training.

Without training, the rows of a trial follow from its configuration.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from adacomcat.io.run import Status
from adacomcat.io.trace import EPOCHS
from adacomcat.versions import repository
from study.run import main
from study.spec.exploration import Dimension, Exploration, Stopping
from study.spec.schema import Arm, Experiment, TrialSpec, Workload
from study.store import Results

ROWS = 4
CLOCKS = {"images_per_s", "seconds"}


def make_exploration(**changes: Any) -> Experiment:
    """Two references, one of which the space cannot express, and a conditional parameter."""
    space = (
        Dimension(name="growth", setting="schedule.growth", kind="float", low=1.0, high=4.0),
        Dimension(name="capped", kind="choice", choices=(False, True)),
        Dimension(
            name="cap",
            setting="schedule.max_interval",
            kind="int",
            low=2,
            high=9,
            when={"capped": True},
        ),
    )
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
        if suggested == "FINISHED":  # Searcher.FINISHED of Tune.
            return None
        specs = [self.results.spec(trial_id) for trial_id in suggested["trials"]]
        self.arms.append(specs[0].arm)
        return specs

    def end(self, specs: Sequence[TrialSpec], status: Status = "finished", **told: Any) -> None:
        """Write what the trials of an arm leave, and say that it is over."""
        for spec in specs:
            rows = made_up_rows(spec)[: 2 if status == "stopped" else None]
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            (self.results.folder(spec.trial_id) / EPOCHS).write_text(text)
            self.results.update(
                spec.trial_id,
                status,
                provenance={"git_commit": "c0ffee"},
                error="ValueError: broken\n\nTraceback" if status == "failed" else None,
                stopped={"rung": 2} if status == "stopped" else None,
            )
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
        from study.explore.searcher import OptunaSearcher

        return Driver(OptunaSearcher(experiment, results), results)

    return start


class Script:
    """`study/run.py` as its users start it, and what it leaves in a results directory."""

    path = repository() / "study" / "run.py"

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    @staticmethod
    def environment() -> dict[str, str]:
        """Of a user's shell: the packages are found by the script itself, not by PYTHONPATH."""
        hidden = ("PYTHONPATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        return {name: value for name, value in os.environ.items() if name not in hidden}

    def start(self, *arguments: object, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """Start a driver; what it prints, errors included, comes back from `finish`."""
        return self.start_python(str(self.path), *arguments, cwd=cwd, **env)

    def start_python(self, *arguments: object, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """The same with other arguments of Python than the script."""
        driver = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=self.environment() | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A suite in the background ignores the interrupt, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._started.append(driver)
        return driver

    def finish(self, driver: subprocess.Popen[str], *, status: int = 0) -> str:
        """Wait for a driver and return what it printed."""
        try:
            out, _ = driver.communicate(timeout=300)
        finally:
            driver.kill()
        assert driver.returncode == status, out
        return out

    def run(self, *arguments: object, cwd: Path, status: int = 0) -> str:
        """Start a driver, wait for it and return what it printed."""
        return self.finish(self.start(*arguments, cwd=cwd), status=status)

    @staticmethod
    def call(*arguments: object, status: int = 0) -> str:
        """What a command prints, errors included, without the seconds that a process costs.

        Trials run on the Ray of the tests' session, whose fixture the caller has to name.
        """
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            found = main([str(argument) for argument in arguments])
        assert found == status, out.getvalue()
        return out.getvalue()

    def wait_for(self, condition: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
        """Wait until something holds while a driver is at work."""
        deadline = time.monotonic() + 300
        while not condition():
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.05)

    def records(self, root: Path) -> dict[str, dict[str, Any]]:
        """Arm and seed -> `trial.json`."""
        found = [json.loads(path.read_text()) for path in root.glob("trials/*/trial.json")]
        return {f"{record['arm']}-{record['seed']}": record for record in found}

    def statuses(self, root: Path) -> list[str]:
        return sorted(record["status"] for record in self.records(root).values())

    def traces(self, root: Path) -> dict[str, Any]:
        """What a trace says, but for how long anything took."""
        results, found = Results(root), {}
        for name, record in self.records(root).items():
            rows = results.epochs(record["trial_id"]) + results.searches(record["trial_id"])
            summary = record["summary"] or {}
            found[name] = [
                {k: v for k, v in row.items() if k not in CLOCKS and not k.endswith("_s")}
                for row in (*rows, summary)
            ]
        return found

    def stop(self) -> None:
        """Kill what a failed test may have left."""
        for driver in self._started:
            if driver.poll() is None:
                driver.kill()
                driver.communicate()


@pytest.fixture(scope="session")
def script() -> Iterator[Script]:
    """Starts drivers in processes of their own."""
    script = Script()
    yield script
    script.stop()
