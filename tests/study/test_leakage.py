"""Whoever looks at a result is told that its search or its selection saw the test images."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from study.execution.dryrun import dry_run
from study.execution.placement import Request
from study.explore.export import export
from study.show.status import describe
from study.spec.expand import apply_settings, expand
from study.spec.schema import Experiment
from study.store import Results

NOTE = "LEAKAGE: the rank search and the selection of models saw the images that are reported on"
LEAKY = {"data.search_from": "test", "data.val_from": "test"}


def printed(write: Callable[[Console], None]) -> str:
    out = io.StringIO()
    write(Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize("leaky", [False, True])
def test_record_status_and_dry_run_say_so(
    tiny_experiment: Experiment, tmp_path: Path, leaky: bool
) -> None:
    experiment = apply_settings(tiny_experiment, LEAKY) if leaky else tiny_experiment
    results = Results(tmp_path)
    results.begin(experiment, command="run", provenance={})
    for spec in expand(experiment):
        results.add(spec)
    uses = ["search", "selection"] if leaky else []
    assert [record["leakage"] for record in results.trials()] == [uses] * 3
    pages = (
        printed(lambda console: console.print(describe(results, experiment))),
        printed(lambda console: dry_run(experiment, results, Request(), console, estimate=False)),
    )
    assert [NOTE in page for page in pages] == [leaky] * 2


@pytest.mark.parametrize("leaky", [False, True])
def test_the_tables_of_an_exploration_say_so(
    exploration: Callable[..., Experiment], results: Results, drive: Any, leaky: bool
) -> None:
    experiment = exploration(samples=1)
    experiment = apply_settings(experiment, LEAKY) if leaky else experiment
    drive(experiment).run(lambda spec: "finished")
    export(experiment, results)
    for name in ("arms.csv", "front.csv"):
        with (results.root / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert {row["leakage"] for row in rows} == {"search selection" if leaky else ""}
