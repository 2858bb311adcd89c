"""What a study will cost, before it starts: an estimate, from a few steps on this machine.

The searches of a schedule that learns from its plans are counted twice: as if no search ever
changed the plan, and as if each one did. So prices are ranges.
"""

import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from adacomcat.config import TrialConfig
from adacomcat.data import Splits
from adacomcat.files import default_cache
from adacomcat.schedule import build_schedule
from adacomcat.training.dense import dense_key, is_cached
from adacomcat.versions import hardware
from study.execution.cluster import Placement
from study.execution.rates import Rates, measure, measure_dense
from study.spec.expand import PROBES, RESOLVED, arm_specs, expand, suggested_arm
from study.spec.schema import Experiment, TrialSpec, levels
from study.spec.space import quasi_random

HOUR_S = 3600.0


@dataclass(frozen=True)
class Span:
    """From the least to the most; of searches, seconds or hours."""

    low: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> "Span":
        return Span(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class ArmPrice:
    """What one arm costs.

    Attributes:
        searches: of a trial.
        trial_s: seconds of a trial.
        gpus: that a trial holds.
    """

    label: str
    trials: int
    searches: Span
    trial_s: Span
    gpus: float

    @property
    def total_s(self) -> Span:
        """Seconds of all its trials together."""
        return self.trial_s * self.trials


# Searches and seconds, from what a schedule does.


def count_searches(schedule: Mapping[str, Any], epochs: int) -> Span:
    """The searches of a schedule if no search ever changes the plan, and if each one does.

    Args:
        schedule: its configuration, resolved.
        epochs: of the search phase, as many of them as run.
    """
    counts = []
    for distance in (0.0, 1.0):
        policy, found = build_schedule(schedule), 0
        for epoch in range(epochs):
            if policy.due(epoch):
                policy.observe(epoch, distance if found else None)
                found += 1
        counts.append(found)
    return Span(min(counts), max(counts))


def trial_seconds(
    config: TrialConfig, splits: Splits, rates: Rates, searches: float, workers: int, epochs: int
) -> float:
    """The seconds of a trial, or of its first epochs.

    Args:
        config: of the trial.
        splits: of its data.
        rates: of a trial like it.
        searches: how many run within these epochs.
        workers: that share its images.
        epochs: over both phases; a trial that ends before the last one is not tested.
    """
    first = min(epochs, config.search_phase.epochs)
    second = epochs - first
    batches = len(splits.search) // config.search.batch_size
    steps = {
        phase: len(splits.train) // recipe.batch_size
        for phase, recipe in (("train", config.search_phase), ("finetune", config.finetune))
    }
    seconds = rates.start
    seconds += first * rates.train.at(steps["train"])
    seconds += second * rates.finetune.at(steps["finetune"])
    seconds += epochs * (rates.evaluate.at(len(splits.val) / workers) + rates.rest)
    one = rates.search.at(config.search.most_steps(batches)) + rates.rebuild.at(batches)
    seconds += searches * one
    if epochs == _epochs(config):
        # The compressed model and the dense one.
        seconds += 2 * rates.evaluate.at(len(splits.test) / workers)
    return seconds


def _epochs(config: TrialConfig) -> int:
    return config.search_phase.epochs + config.finetune.epochs


# The price of a study.


class Pricer:
    """Prices the arms of an experiment; measures each kind of trial once."""

    def __init__(self, experiment: Experiment, placement: Placement) -> None:
        self.experiment, self.placement = experiment, placement
        self.specs = {spec.arm: spec for spec in reversed(expand(experiment))}
        self._measured: dict[str, tuple[Rates, Splits]] = {}

    def arms(self) -> list[ArmPrice]:
        """The arms, and in an exploration those that will be suggested, as one."""
        ranges = self._ranges()
        seeds = len(self.experiment.seeds)
        prices = []
        for arm in self.experiment.arms:
            config = self.specs[arm.name].trial_config()
            span = ranges[arm.name]
            prices.append(self._price(arm.label, seeds, span, self._seconds(config, span)))
        if self.experiment.exploration is not None:
            prices.append(self._suggested())
        return prices

    def dense(self) -> ArmPrice:
        """The dense models that the cache lacks, of which the driver trains one after the other."""
        missing = {}
        for spec in self.specs.values():
            config = spec.trial_config()
            splits = self._rates(config)[1]
            if not is_cached(config, splits, default_cache()):
                missing[dense_key(config, splits)] = (config, splits)
        seconds = [self._dense_seconds(*needed) for needed in missing.values()]
        mean = sum(seconds) / max(1, len(seconds))
        one = Span(mean, mean)
        return ArmPrice("dense model", len(seconds), Span(0, 0), one, self.placement.gpus)

    def wall_s(self, prices: Sequence[ArmPrice]) -> Span:
        """Seconds from the start to the end, with as many trials at once as there is room for."""
        slots, seeds = self.placement.concurrent, len(self.experiment.seeds)
        exploration = self.experiment.exploration
        if exploration is not None:
            # The seeds of an arm run in turn; the references go first.
            jobs = [(p.trial_s * seeds, p.trials // seeds) for p in prices]
            return _both(lambda end: _schedule([(end(s), n) for s, n in jobs], slots))
        by_name = {arm.name: p for arm, p in zip(self.experiment.arms, prices, strict=True)}
        needs = {arm.name: {need.arm for need in arm.needs} for arm in self.experiment.arms}
        waves = [[by_name[name] for name in wave] for wave in levels(needs, "arms")]
        return _both(
            lambda end: sum(
                _schedule([(end(p.trial_s), 1) for _ in range(seeds) for p in wave], slots)
                for wave in waves
            )
        )

    def _ranges(self) -> dict[str, Span]:
        """Searches of each arm; one that waits for its resolver may do what those it follows do."""
        arms = {arm.name: arm for arm in self.experiment.arms}
        order = levels({a.name: {n.arm for n in a.needs} for a in arms.values()}, "arms")
        ranges: dict[str, Span] = {}
        for name in (name for wave in order for name in wave):
            config = self.specs[name].trial_config()
            if config.schedule.get("kind") == RESOLVED:
                followed = [ranges[need.arm] for need in arms[name].needs]
                most = max(span.high for span in followed)
                ranges[name] = Span(min(span.low for span in followed), most)
            else:
                ranges[name] = count_searches(config.schedule, config.search_phase.epochs)
        return ranges

    def _suggested(self) -> ArmPrice:
        """The suggested arms by the mean of points spread over the space.

        At the least each is stopped at the first rung, at the most none is stopped.
        """
        exploration = self.experiment.exploration
        assert exploration is not None
        points = quasi_random(exploration.space, PROBES, exploration.seed)
        arms = [suggested_arm(self.experiment, point) for point in points]
        found = [self._point(arm_specs(self.experiment, arm)[0]) for arm in arms]
        searches = _sum(span for span, _ in found) * (1 / len(found))
        seconds = _sum(span for _, span in found) * (1 / len(found))
        trials = exploration.samples * len(self.experiment.seeds)
        return self._price(f"{exploration.samples} suggested", trials, searches, seconds)

    def _price(self, label: str, trials: int, searches: Span, trial_s: Span) -> ArmPrice:
        gpus = self.placement.gpus * self.placement.workers
        return ArmPrice(label, trials, searches, trial_s, gpus)

    def _point(self, spec: TrialSpec) -> tuple[Span, Span]:
        """Searches and seconds of a trial that may be stopped."""
        config, exploration = spec.trial_config(), self.experiment.exploration
        assert exploration is not None
        whole = count_searches(config.schedule, config.search_phase.epochs)
        if exploration.stopping is None:
            return whole, self._seconds(config, whole)
        rung = exploration.stopping.rungs[0]
        early = count_searches(config.schedule, min(rung, config.search_phase.epochs))
        least = self._seconds(config, early, epochs=rung).low
        return Span(early.low, whole.high), Span(least, self._seconds(config, whole).high)

    def _seconds(self, config: TrialConfig, searches: Span, epochs: int | None = None) -> Span:
        rates, splits = self._rates(config)
        count = _epochs(config) if epochs is None else epochs
        workers = self.placement.workers
        return _both(
            lambda end: trial_seconds(config, splits, rates, end(searches), workers, count)
        )

    def _rates(self, config: TrialConfig) -> tuple[Rates, Splits]:
        """Of one trial for all that have its data, model, method and batches."""
        batches = [config.search.batch_size, config.search_phase.batch_size]
        batches.append(config.finetune.batch_size)
        values = config.to_json()
        kind = [values["data"], values["model"], values["method"], batches]
        key = json.dumps(kind, sort_keys=True)
        if key not in self._measured:
            self._measured[key] = measure(config, self.placement)
        return self._measured[key]

    def _dense_seconds(self, config: TrialConfig, splits: Splits) -> float:
        recipe, rates = config.dense.recipe, self._rates(config)[0]
        line = measure_dense(config, splits, self.placement)
        epoch = line.at(len(splits.train) // recipe.batch_size)
        return recipe.epochs * (epoch + rates.evaluate.at(len(splits.val)))


def _both(of: Callable[[Callable[[Span], float]], float]) -> Span:
    """What a function makes of the low ends of spans, and of the high ends."""
    return Span(of(lambda span: span.low), of(lambda span: span.high))


def _schedule(jobs: Sequence[tuple[float, int]], slots: int) -> float:
    """When the last job ends, each (seconds, times) starting in turn where a slot is free."""
    free = [0.0] * max(1, min(slots, sum(times for _, times in jobs)))
    for seconds, times in jobs:
        for _ in range(times):
            heapq.heapreplace(free, free[0] + seconds)
    return max(free)


# What is printed.


def estimate_table(experiment: Experiment, placement: Placement) -> Table:
    """Measure, and make the table of what the study will cost.

    Args:
        experiment: the study's, whole: what of it is finished already is not taken off.
        placement: of its trials on this machine.

    Raises:
        ValueError: a setting that the data, the model, the method or the budget does not allow.
    """
    pricer = Pricer(experiment, placement)
    prices, dense = pricer.arms(), pricer.dense()
    table = Table(box=None, pad_edge=False, header_style="bold", title=_title(placement))
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("arm")
    for name in ("trials", "searches a trial", "time a trial", "hours", "GPU-hours"):
        table.add_column(name, justify="right", no_wrap=True)
    for price in [*prices, dense]:
        if price.trials:
            searches = _range(price.searches, "{:.2g}")
            cells = (str(price.trials), searches, _time(price.trial_s))
            table.add_row(price.label, *cells, *_hours([price]))
    count = str(sum(price.trials for price in prices))
    table.add_section()
    table.add_row("all", count, "", "", *_hours([*prices, dense]))
    wall = pricer.wall_s(prices) + dense.total_s
    table.caption = f"about {_time(wall)} from start to end, {placement.concurrent} at a time"
    table.caption_justify = "left"
    return table


def _title(placement: Placement) -> str:
    machine = hardware()
    device = f"{placement.threads} of {machine['cores']} cores ({machine['cpu']})"
    if placement.gpus:
        device = f"{placement.gpus:g} GPU ({machine['gpu'][0]})"
    return (
        "ESTIMATE: from two steps of each kind, timed on an untrained model, by one worker alone "
        f"on {device}; Ray's own time and neighbors that slow each other are not in it"
    )


def _hours(prices: Sequence[ArmPrice]) -> tuple[str, str]:
    """Hours, and hours of GPUs."""
    hours = _sum(price.total_s for price in prices) * (1 / HOUR_S)
    gpu = _sum(price.total_s * (price.gpus / HOUR_S) for price in prices)
    return _range(hours), _range(gpu)


def _range(span: Span, form: str = "{:.3g}") -> str:
    low, high = form.format(span.low), form.format(span.high)
    return low if low == high else f"{low} - {high}"


def _time(span: Span) -> str:
    for limit, unit in ((HOUR_S, "h"), (60.0, "min")):
        if span.high >= 2 * limit:
            return f"{_range(span * (1 / limit), '{:.1f}')} {unit}"
    return f"{_range(span, '{:.1f}')} s"


def _sum(spans: Iterable[Span]) -> Span:
    return sum(spans, Span(0.0, 0.0))
