"""Dry run: the trials of a study, their resources, and an estimate of their time."""

from rich.console import Console
from rich.table import Table

from adacomcat.config import leakage_note
from adacomcat.versions import hardware
from study.execution.placement import Placement, Request, place
from study.spec.catalog import recorder
from study.spec.expand import expand
from study.spec.schema import Experiment
from study.store import Results


def dry_run(
    experiment: Experiment,
    results: Results,
    request: Request,
    console: Console,
    *,
    estimate: bool,
) -> None:
    """Print trials, resources and, with `estimate`, an upper bound on the time.

    Raises:
        ValueError: this machine cannot meet the request.
    """
    specs = expand(experiment)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", no_wrap=True)
    for name in ("schedule", "epochs", "status", "needs"):
        table.add_column(name, overflow="fold")
    for spec in specs:
        schedule = dict(spec.config["schedule"])
        kind = schedule.pop("kind")
        coefficients = ", ".join(f"{k}={v}" for k, v in schedule.items())
        phases = (spec.config["search_phase"]["epochs"], spec.config["finetune"]["epochs"])
        table.add_row(
            spec.trial_id,
            f"{kind}({coefficients})",
            " + ".join(str(epochs) for epochs in phases),
            results.status(spec.trial_id),
            ", ".join(spec.needs.values()),
        )
    console.print(table)
    if recorder(experiment.name) is not None:
        console.print("read from a published log; nothing runs")
        return
    machine = hardware()
    placement = place(request, [{"CPU": machine["cores"], "GPU": len(machine["gpu"])}])
    for line in (
        _trials(experiment, len(specs)),
        _resources(placement),
        *sorted({leakage_note(spec.leakage) for spec in specs} - {""}),
        f"results: {results.root}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    if estimate:
        # Not at the top: it imports torch.
        from study.execution.estimate import estimate as upper_bound

        console.print(upper_bound(experiment, placement), highlight=False, soft_wrap=True)


def _trials(experiment: Experiment, specs: int) -> str:
    exploration = experiment.exploration
    if exploration is None:
        return f"{specs} trials"
    suggested = exploration.samples * len(experiment.seeds)
    objectives = ", ".join(exploration.objectives)
    stopping = exploration.stopping
    rungs = ", ".join(map(str, stopping.rungs)) if stopping else "none"
    return (
        f"{specs} trials of references, and {suggested} more: {exploration.samples} arms suggested "
        f"by {exploration.sampler} for {objectives}; pruned after epochs: {rungs}"
    )


def _resources(placement: Placement) -> str:
    workers = "1 worker" if placement.workers == 1 else f"{placement.workers} workers"
    return (
        f"on this machine {placement.concurrent} at a time ({placement.executor}), each "
        f"{workers} of {placement.cpus:g} CPUs and {placement.gpus:g} GPUs"
    )
