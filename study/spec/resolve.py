"""Resolvers of arms whose settings follow from the traces of other trials."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from adacomcat.checks import require, require_known
from adacomcat.plan import Plan
from adacomcat.schedule.explicit import Explicit
from adacomcat.schedule.oracle import oracle
from adacomcat.seeds import derive_seed


@dataclass(frozen=True)
class Trace:
    """Trace of a finished trial."""

    config: Mapping[str, Any]
    """`TrialConfig` as JSON."""
    summary: Mapping[str, Any]
    searches: list[dict[str, Any]]
    """The rows of `searches.jsonl`."""


Resolver = Callable[[Mapping[str, Any], Mapping[str, Trace]], dict[str, Any]]
"""(configuration so far, role -> trace) -> settings to lay over it."""


def oracle_schedule(config: Mapping[str, Any], traces: Mapping[str, Trace]) -> dict[str, Any]:
    """The best search epochs in hindsight, as many as another trial used.

    Args:
        config: of the trial to resolve.
        traces: `plans`: a trial that searched at every epoch; `count`: the one whose number of
            searches is matched.

    Raises:
        ValueError: the `count` trial never searched, or the `plans` trial skipped an epoch.
    """
    recorded = traces["plans"]
    method = recorded.config["method"]["name"]
    plans = {row["epoch"]: Plan(method, row["plan"]) for row in recorded.searches}
    searches = traces["count"].summary["searches"]
    return {"schedule": oracle(plans, searches, config["search_phase"]["epochs"]).config()}


def even_schedule(config: Mapping[str, Any], traces: Mapping[str, Trace]) -> dict[str, Any]:
    """Schedule with as many searches as another trial used, evenly spaced from epoch 1 on.

    Args:
        config: of the trial to resolve.
        traces: `count`: the one whose number of searches is matched.
    """
    epochs, searches = _epochs(config), _count(traces)
    return _at(epochs[i * len(epochs) // searches] for i in range(searches))


def front_schedule(config: Mapping[str, Any], traces: Mapping[str, Trace]) -> dict[str, Any]:
    """Schedule with as many searches as another trial, at the first epochs; see `even_schedule`."""
    return _at(_epochs(config)[: _count(traces)])


def random_schedule(config: Mapping[str, Any], traces: Mapping[str, Trace]) -> dict[str, Any]:
    """Schedule with as many searches as another trial, at random epochs; see `even_schedule`.

    Epoch 1 is always one of them, as of all other schedules: a later first search would leave the
    model dense for longer. `schedule.draw` of the arm numbers its draws; each seed has its own.
    """
    first, *others = _epochs(config)
    draw, seed = config["schedule"]["draw"], config["seed"]
    rng = random.Random(derive_seed(seed, "random_schedule", draw))
    return _at([first, *rng.sample(others, _count(traces) - 1)])


def _epochs(config: Mapping[str, Any]) -> range:
    """Epochs at which a search is possible: epoch 0 trains before anything is searched."""
    return range(1, config["search_phase"]["epochs"])


def _count(traces: Mapping[str, Trace]) -> int:
    searches: int = traces["count"].summary["searches"]
    require(searches >= 1, "searches", searches, "a matched trial that searched")
    return searches


def _at(epochs: Iterable[int]) -> dict[str, Any]:
    return {"schedule": Explicit(epochs=sorted(epochs)).config()}


RESOLVERS: Mapping[str, Resolver] = MappingProxyType(
    {
        resolver.__name__: resolver
        for resolver in (oracle_schedule, even_schedule, front_schedule, random_schedule)
    }
)


def resolve(name: str, config: Mapping[str, Any], traces: Mapping[str, Trace]) -> dict[str, Any]:
    """The settings that the named resolver makes.

    Raises:
        ValueError: an unknown resolver, or traces that it cannot work with.
    """
    require_known(name, RESOLVERS, "resolver")
    return RESOLVERS[name](config, traces)
