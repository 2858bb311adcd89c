"""Compressed modules as JSON-able data: by module, as a plan, and in costs.

Each method's `spec` module knows the modules of that method; here they are found and put together.
A description of a module is a flat mapping whose `kind` says which method's it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from adacomcat.checks import require, require_known
from adacomcat.methods.registry import JOIN, registrations
from adacomcat.methods.summary import Summary, Tokens
from adacomcat.models.heads import BlockContainer, HeadAttention, LinearStandIn
from adacomcat.plan import Decision, Plan

Shape = Mapping[str, Any]
"""A description of one module."""


class Spec(Protocol):
    """Interface of a method's `spec` module."""

    KINDS: Sequence[str]
    """Kinds of its descriptions."""
    ROWS: str
    """Key of its rows in JSON, see `Summary.key`."""

    def shapes_of(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """Name -> description of every module that the method put into a model."""

    def shaped_modules(self, model: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, nn.Module]:
        """Modules of these descriptions for a dense model, which stays as it is.

        Raises:
            ValueError: a module that the model lacks, or a description that does not go with it.
        """

    def plan_of(self, model: nn.Module) -> Plan:
        """The decisions that a model shows, at all sites that it may have; None where dense.

        Raises:
            ValueError: a model that the method does not support.
        """

    def check_plan(self, model: nn.Module, plan: Plan) -> None:
        """Raise unless a model shows the decisions of a plan, at the sites that it names.

        Raises:
            ValueError: a site that the model lacks, or another decision (both are named).
        """

    def tokens_of(self, model: nn.Module) -> Tokens:
        """Tokens by block, where the method changes how many there are; empty otherwise."""

    def summary(self, model: nn.Module, dense: nn.Module, tokens: Tokens) -> Summary:
        """Costs of a model, dense or not, part by part.

        Args:
            model: of this method or of several.
            dense: the same, dense; on the meta device it will do.
            tokens: of all methods together.
        """


def specs() -> dict[str, Spec]:
    """Name -> spec of every method that leaves modules of its own in a model."""
    found = {name: known.load_spec() for name, known in registrations().items()}
    return {name: spec for name, spec in found.items() if spec is not None}


def shapes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name -> description of every module that a method put into a model."""
    found: dict[str, dict[str, Any]] = {}
    for spec in specs().values():
        found |= spec.shapes_of(model)
    return found


def shape_(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Put modules of these descriptions into a dense model; their weights have yet to be loaded.

    Raises:
        ValueError: a module that the model lacks, or a description that is none or does not go
            with it; nothing is changed then.
    """
    known = specs()
    owners = {kind: name for name, spec in known.items() for kind in spec.KINDS}
    mine: dict[str, dict[str, Shape]] = {name: {} for name in known}
    for name, shape in shapes.items():
        field = f"modules.{name}"
        sound = isinstance(shape, Mapping) and "kind" in shape
        require(sound, field, shape, "a mapping with a kind")
        require_known(str(shape["kind"]), owners, f"{field}.kind")
        mine[owners[shape["kind"]]][name] = shape
    modules: dict[str, nn.Module] = {}
    # What holds other modules finds them by their names later: the order plays no part.
    for name, spec in known.items():
        modules |= spec.shaped_modules(model, mine[name])
    for name, module in modules.items():
        model.set_submodule(name, module)


def plan_of(model: nn.Module) -> Plan:
    """The decisions that a model shows, at all its sites; None where it is dense.

    Raises:
        ValueError: a model that no method supports, or that is being searched.
    """
    described = shapes_of(model)
    for name, module in model.named_modules():
        stands_in = isinstance(module, BlockContainer | HeadAttention | LinearStandIn)
        allowed = "a model that no search is working on: commit or restore it first"
        require(name in described or not stands_in, name, type(module).__name__, allowed)
    known, methods = specs(), _methods_in(model)
    if not methods:
        return _dense_plan(model)
    plans = [known[method].plan_of(model) for method in methods]
    decisions = {name: decision for plan in plans for name, decision in plan.decisions.items()}
    return Plan(JOIN.join(methods), decisions)


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Raise unless a plan belongs to the methods that changed a model, and matches the model.

    Raises:
        ValueError: a method that is unknown or that the plan does not name, a site that the model
            lacks, or another decision.
    """
    changed, names = _methods_in(model), plan.method.split(JOIN)
    named = set(changed) <= set(names)
    require(named, "plan.method", plan.method, f"{JOIN.join(changed)}, which changed the model")
    known = specs()
    for name in names:
        require_known(name, known, "plan.method")
    owners = {site: name for name in names for site in known[name].plan_of(model).decisions}
    parts: dict[str, dict[str, Decision]] = {}
    for site, decision in plan.decisions.items():
        require_known(site, owners, "plan.decisions")
        parts.setdefault(owners[site], {})[site] = decision
    for name, decisions in parts.items():
        known[name].check_plan(model, Plan(name, decisions))


def summaries(model: nn.Module, dense: nn.Module) -> list[Summary]:
    """Costs of a model, part by part, as each method that changed it divides it.

    Of a dense model there is one summary, by the first method that supports it.

    Args:
        model: dense, or with what the methods put into it.
        dense: the same without; on the meta device it will do.

    Raises:
        ValueError: a model that no method supports.
    """
    known = specs()
    methods = _methods_in(model) or [_dense_plan(model).method]
    tokens: dict[str, tuple[int, int]] = {}
    for method in methods:
        tokens |= known[method].tokens_of(model)
    return [known[method].summary(model, dense, tokens) for method in methods]


def table(found: Sequence[Summary]) -> dict[str, Any]:
    """Summaries as JSON-able data: rows by key, empty ones of other methods, and further totals."""
    rows: dict[str, Any] = {spec.ROWS: [] for spec in specs().values()}
    rows |= {summary.key: [dict(row) for row in summary.rows] for summary in found}
    return rows | {name: total for summary in found for name, total in summary.totals.items()}


def _methods_in(model: nn.Module) -> list[str]:
    """Names of the methods that put modules into a model."""
    return [name for name, spec in specs().items() if spec.shapes_of(model)]


def _dense_plan(model: nn.Module) -> Plan:
    """The dense plan of the first method that supports a model."""
    refusals = []
    for spec in specs().values():
        try:
            return spec.plan_of(model)
        except ValueError as refused:
            refusals.append(refused)
    raise refusals[0]
