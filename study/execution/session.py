"""Session of one driver on a results directory, from the lock to the final figures."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from adacomcat.checks import require
from adacomcat.files import default_cache
from adacomcat.io.run import FINAL
from adacomcat.versions import collect, git_state, repository
from study.execution import cluster
from study.execution.environment import python_path, set_environment
from study.execution.log import study_log
from study.execution.placement import Placement, Request, place
from study.explore.export import export
from study.refusals import check_buildable
from study.show.progress import StudyProgress
from study.show.status import describe
from study.spec.catalog import recorder
from study.spec.expand import expand
from study.spec.schema import Experiment, TrialSpec
from study.store import Results


class Session:
    """Runs a study and reports its result."""

    def __init__(
        self,
        experiment: Experiment,
        results: Results,
        request: Request,
        arguments: argparse.Namespace,
        console: Console,
    ) -> None:
        self.experiment, self.results = experiment, results
        self.request, self.arguments, self.console = request, arguments, console

    def run(self) -> bool:
        """Run the unfinished trials, draw the figures, and print the results.

        Returns:
            Whether every trial ended and every figure was drawn.

        Raises:
            ValueError: a request that the study, the directory or the cluster does not allow.
            KeyboardInterrupt: after the running trials were marked `interrupted`.
            DiskFull: nothing more could be recorded.
            GivenUp: memory or Ray was lost too often.
        """
        self.results.check(self.experiment, extend=self.arguments.extend)
        # A record that does not read is refused here, before anything is started.
        self.results.trials()
        with self.results.locked(), ExitStack() as log:
            self._restore_traces()
            if self._is_complete():
                count = len(self.results.trials())
                self.console.print(f"all {count} trials have ended already", highlight=False)
            elif (record := recorder(self.experiment.name)) is not None:
                self._read_log(record)
            else:
                self._execute(log)
            return self._conclude()

    def _is_complete(self) -> bool:
        if not self.results.study_file.exists():
            return False
        if self.experiment.exploration is None:
            statuses = (self.results.status(spec.trial_id) for spec in expand(self.experiment))
            return all(status in FINAL for status in statuses)
        from study.explore.optuna_study import left, open_study

        return left(self.experiment, open_study(self.experiment, self.results)) == 0

    def _restore_traces(self) -> None:
        """Give ended trials back the rows that their files have lost."""
        for record in self.results.trials():
            run = self.results.run(record["trial_id"])
            missing = run.missing_rows() if record["status"] in FINAL else ""
            if missing:
                from study.execution.body import restore_trace

                restore_trace(run)
                self._say(f"{run.path.name}: {missing}; restored from its checkpoint")

    def _read_log(self, record: Callable[[Results, str], None]) -> None:
        specs = expand(self.experiment)
        require(len(specs) == 1, "arms, seeds", len(specs), "one trial: no other was published")
        self._begin(specs, git_state(repository()))
        record(self.results, specs[0].trial_id)

    def _begin(self, specs: Sequence[TrialSpec], git: Mapping[str, Any]) -> None:
        self.results.begin(
            self.experiment,
            extend=self.arguments.extend,
            command=shlex.join(sys.argv),
            provenance=collect(git),
        )
        for spec in specs:
            self.results.add(spec)

    def _execute(self, log: ExitStack) -> None:
        """Run the unfinished trials; `log` keeps the study's log open afterwards."""
        from study.execution.body import prepare_dense

        specs = expand(self.experiment)
        by_arm = {spec.arm: spec.trial_config() for spec in specs}
        check_buildable(list(by_arm.values()))
        set_environment(dashboard=self.arguments.dashboard, address=self.arguments.address)
        # Not at the top: Ray reads its settings when imported.
        from study.execution.loggers import make_callbacks
        from study.execution.trial import Job
        from study.execution.tuner import run_study

        loggers = make_callbacks(self.arguments.log_to, self.results.root, self.experiment.name)
        restart = None if cluster.is_running() else self._start_ray
        placement = self._start_ray()
        git = git_state(repository())
        self._begin(specs, git)
        where = (str(self.results.root), str(default_cache()))
        job = Job(*where, placement, git, named=self.arguments.dashboard)
        quiet = self.arguments.quiet
        progress = StudyProgress(self.console, self.experiment, self.results, quiet=quiet)
        log.enter_context(study_log(self.results.root / "study.log"))
        with progress:
            for config in by_arm.values():
                prepare_dense(config, Path(job.cache), placement.device, progress.dense)
            run_study(self.experiment, job, progress, loggers, restart=restart, say=self._say)

    def _start_ray(self) -> Placement:
        url = cluster.start(dashboard=self.arguments.dashboard, address=self.arguments.address)
        placement = place(self.request, cluster.node_resources())
        if url:
            self._say(cluster.describe_dashboard(url))
        return placement

    def _conclude(self) -> bool:
        """Export, draw the figures, which print their tables, and list failed trials."""
        records = self.results.trials()
        good = True
        if any(record["status"] == "finished" for record in records):
            export(self.experiment, self.results)
            good = all([self._draw(figure) for figure in self.experiment.figures])
        if self.experiment.exploration is not None:
            self.console.print(describe(self.results, self.experiment))
        self._say(f"results: {self.results.root}")
        failed = [record for record in records if record["status"] not in FINAL]
        for record in failed:
            reason = (record["error"] or record["status"]).splitlines()[0]
            self._say(f"failed: {record['trial_id']}: {reason}", style="red")
        if failed:
            self._say(f"tracebacks: {self.results.root}/trials/*/trial.json")
        return good and not failed

    def _draw(self, figure: str) -> bool:
        """Draw a figure in a process of its own: `analysis` is no part of a study."""
        # Without -P a folder `analysis` of the current directory would run in place of ours.
        command = [sys.executable, "-P", "-m", f"analysis.{figure}", str(self.results.root)]
        env = {"PYTHONPATH": python_path(), "MPLBACKEND": "Agg"}
        # Its text is read here, whatever the console takes.
        env |= {"PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(
            command, env=os.environ | env, capture_output=True, encoding="utf-8", check=False
        )
        self._say(done.stdout.rstrip())
        if done.returncode:
            self._say(f"{figure} failed:\n{done.stderr.rstrip()}", style="red")
        return done.returncode == 0

    def _say(self, text: str, style: str | None = None) -> None:
        # Whatever a text holds, it is no markup; and a path must not be folded.
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
