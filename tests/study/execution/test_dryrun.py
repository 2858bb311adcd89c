import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from adacomcat.versions import hardware
from study.execution.dryrun import dry_run
from study.execution.placement import Request
from study.spec.expand import expand
from study.spec.schema import Experiment
from study.store import Results

Make = Callable[..., Experiment]


def lines(experiment: Experiment, results: Results, request: Request | None = None) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=160)
    dry_run(experiment, results, request or Request(), console, estimate=False)
    return out.getvalue().splitlines()


def test_a_dry_run_shows_each_trial_and_how_it_stands_and_writes_nothing(
    tiny_experiment: Experiment, tmp_path: Path
) -> None:
    results = Results(tmp_path)
    each, once, best = expand(tiny_experiment)
    results.add(each)
    results.update(each.trial_id, "finished")
    results.add(once)
    results.update(once.trial_id, "failed")
    before = sorted(tmp_path.rglob("*"))
    found = lines(tiny_experiment, results)
    assert [line.split() for line in found[1:4]] == [
        [each.trial_id, "fixed()", "3", "+", "1", "finished"],
        [once.trial_id, "once()", "3", "+", "1", "failed"],
        [best.trial_id, "resolved()", "3", "+", "1", "pending", f"{each.trial_id},", once.trial_id],
    ]
    assert found[4] == "3 trials"
    assert found[-1] == f"results: {tmp_path}"
    assert sorted(tmp_path.rglob("*")) == before


def test_an_exploration_says_what_it_will_look_for(exploration: Make, results: Results) -> None:
    asked = exploration(samples=7, seeds=(0, 1, 2), sampler="nsga2", objectives=("val_acc",))
    *_, trials, _, _ = lines(asked, results)
    assert trials == (
        "6 trials of references, and 21 more: 7 arms suggested by nsga2 for val_acc; "
        "pruned after epochs: 1, 2"
    )
    *_, trials, _, _ = lines(exploration(stopping=None), results)
    assert trials.endswith("for val_acc, searches; pruned after epochs: none")
    assert not results.root.exists()


def test_the_resources_are_those_of_this_machine(
    tiny_experiment: Experiment, results: Results
) -> None:
    cores = hardware()["cores"]
    gpus = len(hardware()["gpu"])
    *_, resources, _ = lines(tiny_experiment, results, Request(cpus_per_worker=float(cores)))
    assert resources == (
        f"on this machine 1 at a time (tune), each 1 worker of {cores} CPUs and {min(gpus, 1)} GPUs"
    )
    *_, resources, _ = lines(
        tiny_experiment,
        results,
        Request(workers=2, cpus_per_worker=cores / 2, gpus_per_worker=0.0),
    )
    assert resources == (
        f"on this machine 1 at a time (train), each 2 workers of {cores / 2:g} CPUs and 0 GPUs"
    )
    with pytest.raises(ValueError, match=f"{cores + 1} CPUs and .* what fits into {cores} CPUs"):
        lines(tiny_experiment, results, Request(cpus_per_worker=cores + 1.0))
