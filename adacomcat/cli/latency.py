"""`latency`: measured times of a model on a device, site by site, for a latency budget."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table
from torch import nn

from adacomcat.budget import Budget
from adacomcat.cli.console import Display
from adacomcat.cli.request import measured_config
from adacomcat.cli.workers import Workers
from adacomcat.config import TrialConfig
from adacomcat.methods.base import (
    MeasuredOption,
    Method,
    SupportsMeasuredTimes,
    SupportsMeasuringTimes,
)
from adacomcat.methods.registry import build_method
from adacomcat.models.registry import create_model, input_shape
from adacomcat.plan import Plan
from adacomcat.timetable import write_timetable
from adacomcat.timing import Times
from adacomcat.versions import hardware, versions

PACKAGES = ("adacomcat", "torch", "timm")
SHARES = {"half of the way": 0.5, "fastest": 1.0}
"""Plans that are measured whole -> how far from the dense model's time to the least reachable."""


def latency(arguments: argparse.Namespace, display: Display) -> None:
    """Measure, print the table and how far its sums are from whole models, write the file.

    Raises:
        ValueError: a model or a setting that is refused, or a device that this machine lacks.
    """
    config = measured_config(arguments)
    device = Workers(arguments.device).device
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    model = _dense(config).to(device, getattr(torch, arguments.dtype))
    images = torch.randn(arguments.batch_size, *input_shape(model)).to(next(model.parameters()))
    method = build_method(model, config.method)
    assert isinstance(method, SupportsMeasuringTimes)
    repeats, words = arguments.repeats, _words(arguments, device)
    table, times, options = method.measure_times(images, repeats=repeats, on=words)
    display.console.print(_table(words, options, arguments.batch_size), highlight=False)
    plans = _plans(method, table)
    if method.dense_cost("latency")[1] < 0:
        display.warn("the sites alone take longer than the whole model: the machine is not quiet")
    whole = method.measure_plans(plans, images, repeats=repeats)
    checks = [_check(name, method, plans[name], table, whole) for name in plans]
    for check in checks:
        display.say(_line(check))
    write_timetable(
        arguments.output,
        table,
        model={"name": config.model.name, "options": dict(config.model.options)},
        method=dict(config.method),
        settings={**_settings(arguments, device), "repeats": arguments.repeats},
        seconds_a_call={name: found.to_json() for name, found in times.items()},
        checks=checks,
        versions=versions(PACKAGES),
        machine=hardware(),
    )
    display.say(f"written to {shlex.quote(str(arguments.output))}")


def _dense(config: TrialConfig) -> nn.Module:
    """The model with random weights, which time does not depend on."""
    assert config.data.image_size is not None
    model = create_model(
        config.model, num_classes=1000, in_chans=3, image_size=config.data.image_size
    )
    return model.eval()


def _settings(arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    return {
        "device": device,
        "batch_size": arguments.batch_size,
        "dtype": arguments.dtype,
        "threads": torch.get_num_threads(),
    }


def _words(arguments: argparse.Namespace, device: str) -> str:
    found = _settings(arguments, device)
    on = device if device == "cpu" else torch.cuda.get_device_name(device)
    words = f"{arguments.model}, {on}, batch {found['batch_size']}, {found['dtype']}"
    return f"{words}, {found['threads']} threads" if device == "cpu" else words


def _table(on: str, options: Sequence[MeasuredOption], batch_size: int) -> Table:
    """Measured times of the modules, and their sums by the table."""
    shown = Table(box=None, pad_edge=False, title=on, title_justify="left")
    for name in ("site", "rank", "module us", "IQR us", "cost us", "of dense", ""):
        shown.add_column(name, justify="left" if name in ("site", "") else "right")
    before = ""
    for option in options:
        is_dense = option.option == "dense"
        slow = "" if is_dense or option.cost_ns < option.dense_ns else "left dense"
        share = "" if is_dense else f"{option.cost_ns / option.dense_ns:.1%}"
        name = "" if option.site == before else option.site
        cells = (*_times(option.times, batch_size), _us(option.cost_ns), share, slow)
        shown.add_row(name, option.option, *cells)
        before = option.site
    return shown


def _times(times: Times, batch_size: int) -> tuple[str, str]:
    """Median and spread of an image."""
    low, high = times.quartiles
    return _us(times.median * 1e9 / batch_size), _us((high - low) * 1e9 / batch_size)


def _us(ns: float) -> str:
    return f"{ns / 1000:,.2f}"


def _plans(method: Method, table: Mapping[str, Any]) -> dict[str, Plan]:
    """Uniform plans on the way from dense to the fastest."""
    assert isinstance(method, SupportsMeasuredTimes)
    method.use_times_(table)
    smallest, (dense, fixed) = method.smallest_cost("latency"), method.dense_cost("latency")
    targets = {name: dense - share * (dense - smallest) for name, share in SHARES.items()}
    budgets = {name: Budget("latency", t, fixed, dense + fixed) for name, t in targets.items()}
    return {name: method.default_plan(budget) for name, budget in budgets.items()}


def _check(
    name: str, method: Method, plan: Plan, table: Mapping[str, Any], whole: Mapping[str, Times]
) -> dict[str, Any]:
    """A plan's time by the table and as measured, both as shares of the dense model's."""
    _, fixed = method.dense_cost("latency")
    predicted = (method.plan_cost(plan, "latency") + fixed) / table["model_ns"]
    # Within each round, so that a machine whose speed drifts does not show as an error.
    measured = whole[name].over(whole["model"]).median
    return {
        "plan": name,
        "decisions": dict(plan.decisions),
        "predicted_of_dense": predicted,
        "measured_of_dense": measured,
        "error": predicted / measured - 1,
        "seconds_a_call": whole[name].to_json(),
        "dense_seconds_a_call": whole["model"].to_json(),
    }


def _line(check: Mapping[str, Any]) -> str:
    left = sum(rank is None for rank in check["decisions"].values())
    return (
        f"uniform plan, {check['plan']}: {check['predicted_of_dense']:.1%} of the dense time by "
        f"the table, {check['measured_of_dense']:.1%} measured ({check['error']:+.1%}); "
        f"{left} of {len(check['decisions'])} sites left dense"
    )
