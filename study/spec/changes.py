"""What flags change of an experiment before it runs."""

from typing import Any, TypeVar

from pydantic import ValidationError

from adacomcat.checks import require
from study.spec.exploration import Record
from study.spec.schema import Experiment

AnyRecord = TypeVar("AnyRecord", bound=Record)


def changed(record: AnyRecord, **changes: Any) -> AnyRecord:
    """A record with other values, validated like a new one.

    Raises:
        ValueError: a refused value, in one line.
    """
    values = {name: getattr(record, name) for name in type(record).model_fields}
    try:
        return type(record)(**(values | changes))
    except ValidationError as error:
        first = error.errors()[0]
        reason = first.get("ctx", {}).get("error")
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(str(reason) if reason else f"{where}: {first['msg']}") from None


def widen(experiment: Experiment, seeds: int | None, samples: int | None) -> Experiment:
    """An experiment with this many seeds (0, 1, ...) or suggested arms; None leaves what is there.

    Raises:
        ValueError: `samples` of an experiment that explores nothing.
    """
    if seeds is not None:
        experiment = changed(experiment, seeds=tuple(range(seeds)))
    if samples is not None:
        experiment = _explore(experiment, "--samples", samples, samples=samples)
    return experiment


def steer(
    experiment: Experiment, sampler: str | None, objectives: str | None, no_stopping: bool
) -> Experiment:
    """An experiment whose exploration is led by other means; None and False leave what is there.

    Args:
        experiment: to change.
        sampler: its name.
        objectives: their names, with commas between them.
        no_stopping: whether every suggested arm runs to its end.

    Raises:
        ValueError: any of them for an experiment that explores nothing, or a refused value.
    """
    if sampler is not None:
        experiment = _explore(experiment, "--sampler", sampler, sampler=sampler)
    if objectives is not None:
        names = tuple(name.strip() for name in objectives.split(","))
        experiment = _explore(experiment, "--objectives", objectives, objectives=names)
    if no_stopping:
        experiment = _explore(experiment, "--no-stopping", True, stopping=None)
    return experiment


def _explore(experiment: Experiment, flag: str, got: object, **changes: Any) -> Experiment:
    exploration = experiment.exploration
    if exploration is None:
        require(False, flag, got, f"nothing: {experiment.name} is a grid, it explores nothing")
        raise AssertionError
    return changed(experiment, exploration=changed(exploration, **changes))
