"""Images a second of the models that a study has left, and of the dense one, taking turns.

    python benchmarks/methods_speed.py results/methods_compared-fashion_mnist
    python benchmarks/methods_speed.py RESULTS --device cuda --dtype bfloat16 --batch-size 256

Each finished trial's model is built anew from its configuration and its last plan, with parameters
that are drawn: shapes are all that its speed depends on. Trials with the same plan share a model.
All run eagerly, in one process. RESULTS/speed.json is what `analysis/fig_methods.py` reads.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import write_record
from timing import parser_of, precision, print_table, run, settings_of
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.config import TrialConfig, from_mapping
from adacomcat.models.timm_vit import input_shape
from adacomcat.plan import Plan
from adacomcat.timing import Times, take_turns
from study.execution.body import untrained
from study.store import Results

DENSE = "dense"
FILE = "speed.json"


def finished(results: Path) -> list[dict[str, Any]]:
    """The records of the finished trials.

    Raises:
        ValueError: no study, none that has finished, or trials of different dense models.
    """
    store = Results(results.resolve())
    store.study()
    found = [record for record in store.trials() if record["status"] == "finished"]
    require(len(found) > 0, f"{results}: finished trials", 0, "1 or more")
    for name in ("model", "data"):
        same = all(record["config"][name] == found[0]["config"][name] for record in found)
        require(same, f"{results}: {name}", "different ones", "one for all trials")
    return found


def plan_of(record: Mapping[str, Any]) -> Plan:
    """What a trial has left."""
    return Plan(record["config"]["method"]["name"], record["summary"]["plan"])


def built_models(records: list[dict[str, Any]], device: str) -> dict[str, nn.Module]:
    """Digest of a plan -> a model of its shape, and the dense one; in evaluation mode."""
    models: dict[str, nn.Module] = {}
    for record in records:
        plan = plan_of(record)
        if plan.digest() in models:
            continue
        trial = untrained(from_mapping(TrialConfig, record["config"]), device)
        # The teacher is the dense model that all of them begin with.
        models.setdefault(DENSE, trial.teacher.eval())
        trial.method.commit_(plan)
        models[plan.digest()] = trial.model.eval()
    return models


def compare(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the record."""
    records = finished(arguments.results)
    models = built_models(records, arguments.device)
    shape = (arguments.batch_size, *input_shape(models[DENSE]))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(arguments.device)
    with torch.inference_mode(), precision(arguments):
        calls = {name: partial(_forward, model, images) for name, model in models.items()}
        times = take_turns(calls, repeats=arguments.repeats, device=arguments.device)
    found = {name: _speed(times, name, arguments.batch_size) for name in times}
    trials = {record["trial_id"]: found[plan_of(record).digest()] for record in records}
    rows = [(name, *_cells(speed)) for name, speed in {DENSE: found[DENSE], **trials}.items()]
    print_table(("trial", "images/s", "IQR", "over dense"), rows)
    settings = settings_of(arguments) | {"results": arguments.results.resolve().name}
    output = arguments.output or arguments.results / FILE
    write_record(output, "methods_speed", settings, dense=found[DENSE], trials=trials)


def _forward(model: nn.Module, images: Tensor) -> Any:
    return model(images)


def _speed(times: Mapping[str, Times], name: str, batch_size: int) -> dict[str, Any]:
    low, high = times[name].quartiles
    return {
        "images_per_s": batch_size / times[name].median,
        "quartiles": [batch_size / high, batch_size / low],
        "over_dense": times[DENSE].over(times[name]).median,
    }


def _cells(speed: Mapping[str, Any]) -> tuple[float, float, str]:
    low, high = speed["quartiles"]
    return speed["images_per_s"], high - low, f"x{speed['over_dense']:.2f}"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__, benchmark="methods_speed", model=None, batch_size=64, repeats=11)
    parser.add_argument("results", type=Path, help="of a study, with its study.json")
    parser.set_defaults(output=None)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(compare, parse())
