"""What the study itself costs: 1 000 trials replayed from stored traces, without any training.

Every suggested arm goes the whole way of a real one (Optuna, Ray Tune, the worker, the judge, the
store), but its epochs are read from a trace that an earlier study left. Which trace follows from
its configuration, so that the same suggestion always gets the same values.

    python benchmarks/study_replay.py --traces results/dp_coefficients-digits
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from record import write_record
from rich.console import Console

from adacomcat.config import TrialConfig
from adacomcat.training import Reporter
from study.execution import cluster
from study.execution.body import Outcome
from study.execution.trial import Job
from study.show.board import Board
from study.show.monitor import QuietMonitor
from study.spec.catalog import load_experiment
from study.spec.changes import with_flags
from study.spec.expand import expand
from study.spec.schema import Status
from study.store import EPOCHS, Results, read_rows

AT_MOST_S = 300.0


class Replay:
    """The body of a trial that reports stored rows."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    def __call__(
        self,
        config: TrialConfig,
        *,
        directory: Path,
        reporter: Reporter,
        cache: Path,
        device: str,
        until: int | None,
    ) -> Outcome | None:
        """Report the rows that are left, up to `until`."""
        text = json.dumps(config.to_json(), sort_keys=True)
        number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % len(self.folders)
        folder = self.folders[number]
        rows = read_rows(folder / EPOCHS)
        for row in rows[len(read_rows(directory / EPOCHS)) : until]:
            reporter.epoch(row)
        if until is not None and until < len(rows):
            return None
        return Outcome(json.loads((folder / "trial.json").read_text())["summary"])


class Memory(QuietMonitor):
    """Notes the memory of the driver as trials end."""

    def __init__(self, console: Console, board: Board, every: int) -> None:
        super().__init__(console, board)
        self.every, self.ended_trials = every, 0
        self.resident_mib: list[tuple[int, float]] = []

    def ended(self, trial_id: str, status: Status, record: Mapping[str, Any] | None) -> None:
        super().ended(trial_id, status, record)
        self.ended_trials += 1
        if self.ended_trials % self.every == 0:
            resident = psutil.Process().memory_info().rss / 2**20
            self.resident_mib.append((self.ended_trials, round(resident, 1)))


def replay(traces: Path, trials: int) -> dict[str, Any]:
    """Run the exploration on stored traces; returns its figures."""
    stored = Results(traces.absolute())
    folders = [
        stored.folder(record["trial_id"])
        for record in stored.trials()
        if record["status"] == "finished"
    ]
    experiment = load_experiment("dp_coefficients", "digits", 1)
    experiment = with_flags(experiment, samples=trials - len(experiment.arms))
    cluster.start()
    placement = cluster.place(cluster.Request(), cluster.node_resources())
    from study.execution.tuner import (
        run_study,  # Not at the top: Ray reads its settings when imported.
    )

    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        results.begin(experiment, command="benchmarks/study_replay.py", provenance={})
        for spec in expand(experiment):
            results.add(spec)
        git = {"git_commit": None, "git_dirty": None}
        job = Job(folder, folder, placement, git, body=Replay(folders))
        board = Board(
            expand(experiment),
            trials=trials,
            records=[],
            in_turn=True,
            objectives=("val_acc", "searches"),
            seeds=1,
        )
        monitor = Memory(Console(stderr=True), board, max(1, trials // 10))
        started = time.perf_counter()
        with monitor:
            run_study(experiment, job, monitor)
        seconds = time.perf_counter() - started
        statuses = [record["status"] for record in results.trials()]
    cluster.stop()
    return {
        "seconds": round(seconds, 1),
        "asked": trials,
        "distinct": len(statuses),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "driver_mib": monitor.resident_mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    traces = "results directory of a study on digits with finished trials"
    parser.add_argument("--traces", type=Path, required=True, help=traces)
    parser.add_argument("--trials", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--output", type=Path, default=Path("results/study_replay.json"))
    arguments = parser.parse_args()
    found = replay(arguments.traces, arguments.trials)
    print(
        f"{found['asked']} trials in {found['seconds']} s (bar: {AT_MOST_S:g} s for 1 000): "
        f"{found['statuses']}"
    )
    for ended, mib in found["driver_mib"]:
        print(f"  after {ended:5} trials: driver {mib:7.1f} MiB")
    settings = {"traces": arguments.traces.name, "trials": arguments.trials}
    write_record(
        arguments.output, "study_replay", settings, found=found, bars={"at_most_s": AT_MOST_S}
    )


if __name__ == "__main__":
    main()
