"""Early stopping: how much of the compute it saves, for how much of the hypervolume.

    python study/run.py --experiment dp_coefficients --workload digits --no-stopping --results A
    python benchmarks/early_stopping.py --results A B C
    python benchmarks/early_stopping.py --results A B C --sweep

Takes the results of explorations that stopped nobody, one a repetition, and replays the judge over
their stored traces. Trials are bit-identical on CPU, so that is what a run of the same
configurations with the judge would have done. Arms come to a rung in the order in which they
started: so they do, however many run at a time, as long as an epoch takes all of them equally long.
A sampler that learns of stopped arms would go on to suggest other configurations; that is not
measured.

The hypervolume is that of the final objectives of the arms which are not stopped, over that of all
arms, in losses scaled to the span of all, against the reference point 1.1. The references are never
stopped and can be most of it, so two more figures go along: `gain kept`, the same ratio of what the
suggested arms add to the hypervolume of the references (`no gain` where they add nothing); and
`random`, the ratio when as many suggested arms, drawn at random, are stopped at the same rungs,
mean over 200 draws.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt
from record import write_record

from adacomcat.checks import require, require_known
from study.explore.judge import REFERENCE_POINT, Judge, scaled
from study.spec.configfile import read_config
from study.spec.exploration import Stopping
from study.spec.objectives import METRICS, losses, mean_values
from study.store import Results

AT_LEAST = {"saved": 0.40, "hypervolume": 0.95}
"""What every repetition must reach."""
DRAWS = 200
SWEEP = {
    "keep": (0.25, 0.34, 0.5, 0.67),
    "margin": (0.0, 0.02, 0.05, 0.1),
    "peers": (3, 4, 6),
}

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FullRun:
    """An exploration that stopped nobody.

    Attributes:
        name: of its folder.
        objectives: names of `study.spec.objectives.METRICS`.
        references: arms that are never stopped.
        arms: all arms, in the order in which they started.
        seeds: trials of an arm.
        values: arm -> its objectives after each epoch, (epochs, objectives).
    """

    name: str
    objectives: tuple[str, ...]
    references: frozenset[str]
    arms: tuple[str, ...]
    seeds: int
    values: Mapping[str, Array]

    @property
    def epochs(self) -> int:
        """Of one trial."""
        return len(self.values[self.arms[0]])


def load(root: Path, objectives: tuple[str, ...] = ()) -> FullRun:
    """Read a results directory.

    Args:
        root: the directory.
        objectives: names of `study.spec.objectives.METRICS`; those of the exploration when empty.

    Raises:
        ValueError: no exploration, an unknown objective, a trial that did not finish, or arms of
            unlike length or seeds.
    """
    results, experiment = Results(root.absolute()), read_config(root / "study.yaml")
    require(experiment.exploration is not None, "--results", str(root), "an exploration")
    assert experiment.exploration is not None
    objectives = objectives or experiment.exploration.objectives
    for name in objectives:
        require_known(name, METRICS, "--objectives")
    records = results.trials()
    unfinished = [r["trial_id"] for r in records if r["status"] != "finished"]
    whole = bool(records) and not unfinished
    require(whole, f"--results {root}: not finished", unfinished, "a run with --no-stopping")
    references = [arm.name for arm in experiment.arms]
    started: dict[str, str] = {}
    traces: dict[str, list[list[dict[str, Any]]]] = {}
    for record in sorted(records, key=lambda record: (record["started"], record["trial_id"])):
        started.setdefault(record["arm"], record["started"])
        traces.setdefault(record["arm"], []).append(results.epochs(record["trial_id"]))
    shapes = {tuple(map(len, rows)) for rows in traces.values()}
    alike = len(shapes) == 1 and len(set(shape := min(shapes))) == 1
    require(alike, f"--results {root}: epochs", sorted(shapes), "as many in all trials")
    values = {
        arm: np.array(
            [
                mean_values([rows[:epoch] for rows in seeds], objectives)
                for epoch in range(1, shape[0] + 1)
            ]
        )
        for arm, seeds in traces.items()
    }
    suggested = [arm for arm in started if arm not in references]
    arms = (*(arm for arm in references if arm in started), *suggested)
    return FullRun(root.name, objectives, frozenset(references), arms, len(shape), values)


def replay(run: FullRun, stopping: Stopping) -> dict[str, int]:
    """What the judge would have done: arm -> epochs after which it is stopped.

    Raises:
        ValueError: a rung that is not before the end of a trial.
    """
    last, whole = stopping.rungs[-1], run.epochs
    require(last < whole, "--rungs", stopping.rungs, f"below {whole}, the epochs of a trial")
    stopped: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(stopping, run.objectives, run.references, Path(folder) / "rungs.jsonl")
        for arm, rung in itertools.product(run.arms, stopping.rungs):
            if arm not in stopped:
                values = run.values[arm][rung - 1].tolist()
                if judge.ask(arm, rung, values).stop:
                    stopped[arm] = rung
        judge.close()
    return stopped


def hypervolume(run: FullRun, without: Sequence[str] = ()) -> float:
    """Of the final objectives of all arms but some, scaled to the span of all."""
    final = np.array([losses(run.values[arm][-1], run.objectives) for arm in run.arms])
    kept = [arm not in without for arm in run.arms]
    reference = [REFERENCE_POINT] * final.shape[1]
    return float(moocore.hypervolume(scaled(final)[kept], ref=reference))


def measure(run: FullRun, stopping: Stopping) -> dict[str, Any]:
    """The figures of a repetition."""
    stopped = replay(run, stopping)
    suggested = [arm for arm in run.arms if arm not in run.references]
    everything, without = hypervolume(run), hypervolume(run, list(stopped))
    least = hypervolume(run, suggested)
    full = run.epochs * len(run.arms)
    done = full - sum(run.epochs - rung for rung in stopped.values())
    return {
        "repetition": run.name,
        "arms": len(run.arms),
        "epochs_full": full * run.seeds,
        "epochs_run": done * run.seeds,
        "saved": 1 - done / full,
        "hypervolume": without / everything,
        "gain_kept": (without - least) / (everything - least) if everything > least else None,
        "stopped": stopped,
    }


def random_hypervolume(run: FullRun, count: int) -> float:
    """The hypervolume ratio without so many suggested arms drawn at random, mean over the draws."""
    suggested = [arm for arm in run.arms if arm not in run.references]
    rng = np.random.default_rng(0)
    draws = [rng.permutation(len(suggested))[:count] for _ in range(DRAWS)]
    found = [hypervolume(run, [suggested[index] for index in draw]) for draw in draws]
    return float(np.mean(found)) / hypervolume(run)


def print_table(reports: Sequence[Mapping[str, Any]]) -> None:
    """What was measured, and whether the bars are met."""
    width = max(10, *(len(report["repetition"]) for report in reports))
    titles = ("epochs", "run", "saved", "hypervol.", "gain kept", "random", "stopped")
    print(f"{'repetition':<{width}} " + " ".join(f"{title:>9}" for title in titles))
    for report in reports:
        names = ("saved", "hypervolume", "gain_kept", "random_hypervolume")
        shares = [report[name] for name in names]
        cells = [f"{report[name]:9d}" for name in ("epochs_full", "epochs_run")]
        cells += ["  no gain" if share is None else f"{share:9.1%}" for share in shares]
        cells += [f"{len(report['stopped']):4d} of {report['arms']}"]
        print(f"{report['repetition']:<{width}} {' '.join(cells)}")
    for name, bar in AT_LEAST.items():
        least = min(report[name] for report in reports)
        met = "met" if least >= bar else "MISSED"
        print(f"{name:<{width}} {least:9.1%}   at least {bar:.0%} in each: {met}")


def sweep(runs: Sequence[FullRun], stopping: Stopping) -> list[dict[str, Any]]:
    """The figures over a grid of rules, least of the repetitions; printed row by row."""
    titles = (*SWEEP, "saved", "hypervol.")
    print("least of the repetitions\n" + " ".join(f"{title:>9}" for title in titles))
    rows = []
    for figures in itertools.product(*SWEEP.values()):
        given = dict(zip(SWEEP, figures, strict=True))
        rule = Stopping.model_validate(stopping.model_dump() | given)
        reports = [measure(run, rule) for run in runs]
        least = {name: min(report[name] for report in reports) for name in AT_LEAST}
        met = all(least[name] >= bar for name, bar in AT_LEAST.items())
        rows.append(given | least)
        cells = [f"{figure:9g}" for figure in figures] + [
            f"{share:9.1%}" for share in least.values()
        ]
        print(" ".join(cells) + ("   bars met" if met else ""))
    return rows


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    default = Stopping.model_fields
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="full runs")
    parser.add_argument("--objectives", help="with commas; default: those of the runs")
    parser.add_argument("--rungs", default="6,10,14", help="epochs, with commas")
    for name, kind in (("keep", float), ("peers", int), ("dominators", int), ("margin", float)):
        parser.add_argument(f"--{name}", type=kind, default=default[name].default)
    parser.add_argument("--sweep", action="store_true", help="print the trade-off, too")
    parser.add_argument("--output", type=Path, default=Path("results/early_stopping.json"))
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    try:
        compare(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")


def compare(arguments: argparse.Namespace) -> None:
    """Measure every repetition, print the table and write the record."""
    names = ("keep", "peers", "dominators", "margin")
    rungs = tuple(int(rung) for rung in arguments.rungs.split(","))
    stopping = Stopping(rungs=rungs, **{name: getattr(arguments, name) for name in names})
    objectives = tuple(arguments.objectives.split(",")) if arguments.objectives else ()
    runs = [load(root, objectives) for root in arguments.results]
    reports = [measure(run, stopping) for run in runs]
    for run, report in zip(runs, reports, strict=True):
        report["random_hypervolume"] = random_hypervolume(run, len(report["stopped"]))
    print_table(reports)
    found: dict[str, Any] = {"repetitions": reports, "bars": {"at_least": AT_LEAST}}
    if arguments.sweep:
        found["sweep"] = sweep(runs, stopping)
    settings = {
        "objectives": {run.name: run.objectives for run in runs},
        "stopping": stopping.model_dump(),
        "draws": DRAWS,
    }
    write_record(arguments.output, "early_stopping", settings, **found)


if __name__ == "__main__":
    main()
