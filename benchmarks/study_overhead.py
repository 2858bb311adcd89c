"""What Ray and the records cost beside the training: CPU time of a study against its trials' own.

Runs an experiment and adds up the CPU seconds of every process it starts. A trial's share is what
its worker spends inside the clocks of the engine (train, search, rebuild, eval). The rest is the
start of Ray and its workers, their imports, the making of models, checkpoints, the driver with its
display, and the records. The same trial without Ray tells what the engine costs alone.

    python benchmarks/study_overhead.py --experiment adaptive_vs_fixed --workload digits
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from record import write_record
from rich.console import Console
from timing import Bar, print_bars

from adacomcat.config import TrialConfig
from adacomcat.files import default_cache
from adacomcat.training import Reporter
from study.execution import cluster
from study.execution.body import Outcome, prepare_dense, train_trial
from study.execution.trial import ArmRun, Job
from study.show.monitor import make_monitor
from study.spec.catalog import load_experiment
from study.spec.expand import expand
from study.store import Results

AT_LEAST = 0.70
EVERY_S = 0.5


class CpuOfChildren(threading.Thread):
    """Watches the CPU time of all processes below this one; the last word of each is kept."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: dict[tuple[int, float], tuple[str, float]] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Note what every process has used so far."""
        for process in psutil.Process().children(recursive=True):
            try:
                with process.oneshot():
                    times, name = process.cpu_times(), process.name()
                    key = (process.pid, process.create_time())
                self.seconds[key] = (name, times.user + times.system)
            except psutil.Error:
                continue

    def stop(self) -> float:
        """End the watch; returns the CPU seconds of all of them."""
        self.look()
        self._over.set()
        return sum(seconds for _, seconds in self.seconds.values())


def timed_body(
    config: TrialConfig,
    *,
    directory: Path,
    reporter: Reporter,
    cache: Path,
    device: str,
    until: int | None,
) -> Outcome | None:
    """The body of every study, with the CPU seconds that it took."""
    started, wall = time.process_time(), time.perf_counter()
    outcome = train_trial(
        config, directory=directory, reporter=reporter, cache=cache, device=device, until=until
    )
    assert outcome is not None
    outcome.summary["body_cpu_s"] = time.process_time() - started
    outcome.summary["body_wall_s"] = time.perf_counter() - wall
    return outcome


def run_study_once(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the experiment under Ray; returns CPU seconds by where they went."""
    experiment = load_experiment(arguments.experiment, arguments.workload, arguments.seeds)
    cache = default_cache()
    prepare_dense(expand(experiment)[0].trial_config(), cache, "cpu", None)
    watch = CpuOfChildren()
    before, started = time.process_time(), time.perf_counter()
    watch.start()
    cluster.start()
    placement = cluster.place(cluster.Request(), cluster.node_resources())
    from study.execution.tuner import (
        run_study,  # Not at the top: Ray reads its settings when imported.
    )

    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        results.begin(experiment, command="benchmarks/study_overhead.py", provenance={})
        for spec in expand(experiment):
            results.add(spec)
        git = {"git_commit": None, "git_dirty": None}
        job = Job(folder, str(cache), placement, git, body=timed_body)
        with make_monitor(Console(stderr=True), experiment, results, quiet=True) as monitor:
            run_study(experiment, job, monitor)
        records = results.trials()
    children = watch.stop()
    driver = time.process_time() - before
    cluster.stop()
    assert all(record["status"] == "finished" for record in records)
    summaries = [record["summary"] for record in records]
    clocks = ("train_s", "search_s", "rebuild_s", "eval_s")
    return {
        "trials": len(records),
        "wall_s": time.perf_counter() - started,
        "driver_cpu_s": driver,
        "processes_cpu_s": children,
        "bodies_cpu_s": sum(summary["body_cpu_s"] for summary in summaries),
        "clocks_s": sum(summary[name] for summary in summaries for name in clocks),
        # Clocks tell the time of day, so their share is taken within the bodies.
        "share": sum(s["body_cpu_s"] for s in summaries)
        / (children + driver)
        * sum(s[name] for s in summaries for name in clocks)
        / sum(s["body_wall_s"] for s in summaries),
    }


def run_trial_alone(arguments: argparse.Namespace) -> dict[str, float]:
    """The experiment's first trial in this process, with its records and without Ray."""
    experiment = load_experiment(arguments.experiment, arguments.workload, 1)
    spec = next(s for s in expand(experiment) if s.arm == arguments.arm)
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        results.begin(experiment, command="benchmarks/study_overhead.py", provenance={})
        results.add(spec)
        placement = cluster.Placement("tune", 1, 1.0, 0.0, 1)
        git = {"git_commit": None, "git_dirty": None}
        job = Job(folder, str(default_cache()), placement, git)
        started, cpu = time.perf_counter(), time.process_time()
        ArmRun([spec], job, "cpu", lambda row: None, first=True).run()
        return {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--experiment", default="adaptive_vs_fixed", help="a grid (default: adaptive_vs_fixed)")
    add("--workload", default="digits", help="(default: digits)")
    add("--seeds", type=int, default=3, help="(default: 3)")
    add("--arm", default="adaptive", help="whose trial is run without Ray (default: adaptive)")
    add("--output", type=Path, default=Path("results/study_overhead.json"))
    arguments = parser.parse_args()
    study = run_study_once(arguments)
    alone = run_trial_alone(arguments)
    print(f"{study['trials']} trials in {study['wall_s']:.0f} s")
    print(
        f"CPU s: bodies {study['bodies_cpu_s']:.0f}, all workers and Ray's own processes "
        f"{study['processes_cpu_s']:.0f}, driver {study['driver_cpu_s']:.0f}"
    )
    bar = Bar("share inside the trials' clocks", study["share"], "at least", AT_LEAST)
    print("the bar is for 24 trials on digits:")
    print_bars([bar])
    print(f"one trial without Ray: {alone['wall_s']:.1f} s, {alone['cpu_s']:.1f} CPU s")
    names = ("experiment", "workload", "seeds", "arm")
    settings = {name: getattr(arguments, name) for name in names}
    write_record(
        arguments.output,
        "study_overhead",
        settings,
        study=study,
        alone=alone,
        bars=[bar.to_json()],
    )


if __name__ == "__main__":
    main()
