"""What the methods left in a model, as JSON-able data: module by module, as a plan, and in costs.

A model may be of low rank, drop tokens, or both; each method knows its own modules
(`lowrank.shape`, `tokens.shape`), and here they are put together.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import nn

from adacomcat.checks import require
from adacomcat.methods.lowrank import spec as lowrank
from adacomcat.methods.lowrank.space import Site
from adacomcat.methods.tokens import spec as tokens
from adacomcat.methods.tokens.macs import block_costs, count, published
from adacomcat.methods.tokens.rates import Step
from adacomcat.plan import Decision, Plan

PARTS: Mapping[str, Any] = MappingProxyType({"lowrank": lowrank, "diffrate": tokens})
"""Method -> what knows its modules, in the order of a combined plan's name."""
Shape = Mapping[str, Any]
"""A description of one module; its `kind` says which method's it is."""


def shapes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name -> description of every module that a method put into a model."""
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS.values():
        found |= part.shapes_of(model)
    return found


def shape_(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Put modules of these descriptions into a dense model; factorized ones without weights yet.

    Raises:
        ValueError: a module that the model lacks, or a description that is none or does not go
            with it; nothing is changed then.
    """
    mine: dict[bool, dict[str, Shape]] = {True: {}, False: {}}
    for name, shape in shapes.items():
        mine[isinstance(shape, Mapping) and shape.get("kind") == tokens.KIND][name] = shape
    # What holds the blocks finds them by their names later: the order plays no part.
    modules = lowrank.shaped_modules(model, mine[False]) | tokens.shaped_modules(model, mine[True])
    for name, module in modules.items():
        model.set_submodule(name, module)


def plan_of(model: nn.Module) -> Plan:
    """The decisions that a model shows, at all its sites; None where it is dense.

    Raises:
        ValueError: a model that no method supports.
    """
    methods = _methods(model)
    if not methods:
        return _dense_plan(model)
    plans = [PARTS[method].plan_of(model) for method in methods]
    decisions = {name: decision for plan in plans for name, decision in plan.decisions.items()}
    return Plan("+".join(methods), decisions)


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Raise unless a plan is of the methods that changed a model, and says what the model shows.

    Raises:
        ValueError: a method that the plan does not name, a site that the model lacks, or another
            decision.
    """
    methods = _methods(model)
    named = set(methods) <= set(plan.method.split("+"))
    require(named, "plan.method", plan.method, f"{'+'.join(methods)}, which changed the model")
    parts: dict[bool, dict[str, Decision]] = {True: {}, False: {}}
    for name, decision in plan.decisions.items():
        parts[tokens.is_site(name)][name] = decision
    if parts[False]:
        lowrank.check_plan(model, Plan(plan.method, parts[False]))
    if parts[True]:
        tokens.check_plan(model, Plan(plan.method, parts[True]))


def table(model: nn.Module, dense: nn.Module) -> dict[str, Any]:
    """Costs by site and by block; MACs of an image.

    Args:
        model: dense, or with what the methods put into it.
        dense: the same without; on the meta device it will do.

    Returns:
        `sites`: of the ranks that a model may have, for each its name (`site`), `rank` (None:
        dense), `full_rank`, weights without biases (`params`), `macs`, `dense_params` and
        `dense_macs`; none where only tokens are dropped. `blocks`: of the tokens, for each block
        its name (`block`), how many come in (`tokens`), how many pruning and then merging leave
        (`pruned`, `merged`), `macs` and `dense_macs`; none of a model that may have ranks and drops
        no tokens. With blocks, MACs of both models by the formula of DiffRate (arXiv 2305.17997,
        equation 8), by which published rates are named: `published_macs`, `dense_published_macs`.

    Raises:
        ValueError: a model that no method supports.
    """
    decisions = plan_of(model).decisions
    of_tokens = [tokens.is_site(site) for site in decisions]
    found: dict[str, Any] = {"sites": [], "blocks": []}
    steps: dict[str, Step] = {}
    if any(of_tokens):
        form = tokens.form_of(model)
        names = [f"{form.container}.{block}" for block in range(form.depth)]
        steps = dict(zip(names, tokens.rates_of(model).steps(form.tokens), strict=True))
        found |= _tokens_table(model, dense, steps)
    if not all(of_tokens):
        found["sites"] = [
            _site(site, decisions[site.name], steps) for site in lowrank.model_sites(model)
        ]
    return found


def _tokens_table(model: nn.Module, dense: nn.Module, steps: Mapping[str, Step]) -> dict[str, Any]:
    form = tokens.form_of(model)
    whole = [Step(form.tokens, form.tokens, form.tokens)] * form.depth
    costs, dense_costs = block_costs(model, form), block_costs(dense, form)
    rows = [
        {
            "block": name,
            "tokens": step.before,
            "pruned": step.pruned,
            "merged": step.after,
            "macs": count([cost], [step], form),
            "dense_macs": count([dense_cost], whole[:1], form),
        }
        for (name, step), cost, dense_cost in zip(steps.items(), costs, dense_costs, strict=True)
    ]
    return {
        "blocks": rows,
        "published_macs": published(model, form, list(steps.values())),
        "dense_published_macs": published(dense, form, whole),
    }


def _site(site: Site, rank: Any, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Weights (no biases) and MACs of one site; rank None: dense."""
    here, step = site, steps.get(site.name.rpartition(".")[0])
    if step is not None:
        # Tokens leave a block between its attention and its MLP.
        tokens = step.before if site.attention else step.after
        here = replace(site, tokens=tokens, pairs=tokens**2 if site.attention else 0)
    return {
        "site": site.name,
        "rank": rank,
        "full_rank": site.full,
        "params": site.cost("params", rank),
        "macs": here.cost("macs", rank),
        "dense_params": site.cost("params", None),
        "dense_macs": site.cost("macs", None),
    }


def _methods(model: nn.Module) -> list[str]:
    """Names of the methods that put modules into a model."""
    return [method for method, part in PARTS.items() if part.shapes_of(model)]


def _dense_plan(model: nn.Module) -> Plan:
    """Ranks, or where the model can have none: all its tokens."""
    refusals = []
    for part in PARTS.values():
        try:
            return part.plan_of(model)
        except ValueError as refused:
            refusals.append(refused)
    raise refusals[0]
