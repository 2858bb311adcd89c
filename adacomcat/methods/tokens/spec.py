"""Token compression as JSON-able data: everything that the weights do not say.

A description is a flat mapping, of the module that holds the blocks:

    kind     tokens
    prune    tokens that each block keeps by pruning, prefix tokens included; None: all
    merge    the same by merging
    sizes    exact or reference, see `DiffRateConfig.sizes`

Which tokens are special is read off the model.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from adacomcat.checks import require, require_known
from adacomcat.methods.summary import Summary, Tokens
from adacomcat.methods.tokens.blocks import TokenBlocks, check_rates
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.macs import block_costs, count, published
from adacomcat.methods.tokens.rates import Rates, Step
from adacomcat.models.registry import tokens_of as sequence_of
from adacomcat.models.tokens import TokenSequence
from adacomcat.plan import Plan

Shape = Mapping[str, Any]
"""A description, as above."""

KIND = "tokens"
ROWS = "blocks"
KINDS = (KIND,)
FIELDS = ("prune", "merge", "sizes")


def shape_of(module: nn.Module) -> dict[str, Any] | None:
    """The description of blocks that drop tokens; None for any other module."""
    if not isinstance(module, TokenBlocks):
        return None
    return _described(module.rates, module.sizes)


def shapes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name -> description of the module that drops tokens in a model, if any."""
    found = {name: shape_of(module) for name, module in model.named_modules()}
    return {name: shape for name, shape in found.items() if shape is not None}


def shaped_modules(model: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, nn.Module]:
    """Modules of these descriptions, which hold the model's own blocks.

    Args:
        model: all its tokens run; its weights may be of low rank.
        shapes: by name of the module that holds the blocks.

    Raises:
        ValueError: a model that cannot drop tokens, another module, or a description that is none
            or does not go with the model.
    """
    if not shapes:
        return {}
    form = form_of(model)
    found: dict[str, nn.Module] = {}
    for name, shape in shapes.items():
        field = f"modules.{name}"
        require(name == form.container, "modules", name, f"{form.container}, for {KIND}")
        rates = _checked(shape, field)
        old = model.get_submodule(name)
        new = TokenBlocks(list(old.children()), rates, form, shape["sizes"])
        # Not of its blocks, which may have modes of their own.
        new.training = old.training
        found[name] = new
    return found


def shape_(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Put these modules into a model.

    Raises:
        ValueError: as `shaped_modules`; nothing is changed then.
    """
    for name, module in shaped_modules(model, shapes).items():
        model.set_submodule(name, module)


def shapes_for(model: nn.Module, rates: Rates, sizes: str = "exact") -> dict[str, dict[str, Any]]:
    """Name -> description of the module that drops tokens at these rates.

    Args:
        model: dense or of low rank, on any device, the meta device too.
        rates: of all its blocks.
        sizes: see `DiffRateConfig`.

    Raises:
        ValueError: a model that cannot drop tokens, or rates of another depth or that leave too
            few.
    """
    form = form_of(model)
    check_rates(rates, form)
    return {form.container: _described(rates, sizes)}


def form_of(model: nn.Module) -> TokenSequence:
    """Token sequence of a model, compressed or not, with weights of low rank or not.

    Raises:
        ValueError: a model that cannot drop tokens.
    """
    return sequence_of(model)


def rates_of(model: nn.Module) -> Rates:
    """The counts that a model has, by block; None throughout where no token is dropped.

    Raises:
        ValueError: a model that cannot drop tokens.
    """
    form = form_of(model)
    blocks = model.get_submodule(form.container)
    if isinstance(blocks, TokenBlocks):
        return blocks.rates
    return Rates((None,) * form.depth, (None,) * form.depth)


def plan_of(model: nn.Module) -> Plan:
    """The counts that a model has, at all sites that it may have; None where all tokens stay.

    Raises:
        ValueError: a model that cannot drop tokens.
    """
    form, rates = form_of(model), rates_of(model)
    decisions: dict[str, int | None] = {}
    for block in range(form.depth):
        if not form.merges_only:
            decisions[form.site(block, "prune")] = rates.prune[block]
        decisions[form.site(block, "merge")] = rates.merge[block]
    return Plan("diffrate", decisions)


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Raise unless a model has the counts of a plan at the sites of the plan.

    Raises:
        ValueError: a site that the model lacks, or another count (both are named).
    """
    has = plan_of(model).decisions
    for name, kept in plan.decisions.items():
        require_known(name, has, "plan.decisions")
        allowed = f"{has[name]}, the tokens kept in the model"
        require(kept == has[name], f"plan.decisions.{name}", kept, allowed)


def tokens_of(model: nn.Module) -> Tokens:
    """Block -> tokens that enter it, and tokens that its MLP sees."""
    return {name: (step.before, step.after) for name, step in _steps(model).items()}


def summary(model: nn.Module, dense: nn.Module, tokens: Tokens) -> Summary:
    """Tokens and MACs of a model, block by block, at the ranks that other methods leave.

    The totals are MACs of both models by the formula of DiffRate (arXiv 2305.17997, equation 8), by
    which published rates are named.
    """
    form, steps = form_of(model), _steps(model)
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
    fewer = any(step.compresses for step in steps.values())
    return Summary(
        key=ROWS,
        columns={
            "block": "block",
            "tokens": "tokens",
            "after pruning": "pruned",
            "after merging": "merged",
        },
        rows=rows,
        units=("macs",),
        rest="all else",
        totals={
            "published_macs": published(model, form, list(steps.values())),
            "dense_published_macs": published(dense, form, whole),
        },
        total_titles={"by the published formula": "published_macs"},
        changed="its tokens pruned and merged at the rates below" if fewer else "",
        tag="token-reduction",
    )


def _steps(model: nn.Module) -> dict[str, Step]:
    """Name of each block -> treatment of the tokens in it."""
    form = form_of(model)
    names = [f"{form.container}.{block}" for block in range(form.depth)]
    return dict(zip(names, rates_of(model).steps(form.tokens), strict=True))


def _described(rates: Rates, sizes: str) -> dict[str, Any]:
    counts = {"prune": list(rates.prune), "merge": list(rates.merge)}
    return {"kind": KIND, **counts, "sizes": sizes}


def _checked(shape: Any, field: str) -> Rates:
    """The counts of a description.

    Raises:
        ValueError: a missing or unknown field, or one that is not what it should be.
    """
    differing = sorted(set(FIELDS) ^ (shape.keys() - {"kind"}))
    require(not differing, field, differing, f"exactly kind, {', '.join(FIELDS)}")
    for kind in ("prune", "merge"):
        counts = shape[kind]
        sound = isinstance(counts, list) and all(c is None or type(c) is int for c in counts)
        require(sound, f"{field}.{kind}", counts, "a list of integers or null")
    DiffRateConfig(sizes=shape["sizes"])
    return Rates(tuple(shape["prune"]), tuple(shape["merge"]))
