"""Arms whose settings follow from what other trials recorded: one named function each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from adacomcat.checks import require_known
from adacomcat.plan import Plan
from adacomcat.schedule.oracle import oracle


@dataclass(frozen=True)
class Trace:
    """What a finished trial left behind."""

    config: Mapping[str, Any]
    """Its `TrialConfig` as JSON."""
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


RESOLVERS: Mapping[str, Resolver] = MappingProxyType({"oracle_schedule": oracle_schedule})


def resolve(name: str, config: Mapping[str, Any], traces: Mapping[str, Trace]) -> dict[str, Any]:
    """The settings that the named resolver makes.

    Raises:
        ValueError: an unknown resolver, or traces that it cannot work with.
    """
    require_known(name, RESOLVERS, "resolver")
    return RESOLVERS[name](config, traces)
