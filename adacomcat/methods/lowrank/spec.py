"""Factorized modules as JSON-able data: everything that their weights do not say.

A description is a flat mapping whose `kind` says what the rest means:

    attention    width, heads, head_width (d of the dense head), qk_rank and vo_rank (a head),
                 query_bias, out_bias; scale (of the scores) where it is not d ** -0.5, and
                 value_width (of the dense value head) where it is not d; key_bias where queries
                 and keys are not one product
    linear       inputs, outputs, rank, bias

Dropout and whatever else training alone needs stays with the dense module that is replaced.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from adacomcat.checks import require, require_known
from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.linear import LowRankLinear
from adacomcat.methods.lowrank.space import Site, all_sites
from adacomcat.methods.summary import Summary, Tokens
from adacomcat.models.base import AttentionView, LinearView
from adacomcat.models.registry import view_of
from adacomcat.models.tensors import check_tensors
from adacomcat.plan import Plan

Shape = Mapping[str, Any]
"""A description, as above."""

ROWS = "sites"
KINDS = ("attention", "linear")
FIELDS = {
    "attention": ("width", "heads", "head_width", "qk_rank", "vo_rank", "query_bias", "out_bias"),
    "linear": ("inputs", "outputs", "rank", "bias"),
}
OPTIONAL = ("scale", "value_width", "key_bias")
"""Of an attention, where they are not the usual ones."""


def shape_of(module: nn.Module) -> dict[str, Any] | None:
    """The description of a factorized module; None for any other."""
    if isinstance(module, LowRankAttention):
        return {
            "kind": "attention",
            "width": module.width,
            "heads": module.num_heads,
            "head_width": module.head_dim,
            "qk_rank": module.score_width,
            "vo_rank": module.value_width,
            "query_bias": module.q_bias is not None,
            "out_bias": module.proj.bias is not None,
            **_beside(module.scale, module.head_dim, module.value_dim),
            **({"key_bias": True} if module.k_bias is not None else {}),
        }
    if isinstance(module, LowRankLinear):
        return {
            "kind": "linear",
            "inputs": module.in_features,
            "outputs": module.out_features,
            "rank": module.first.out_features,
            "bias": module.last.bias is not None,
        }
    return None


def shapes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name -> description of every factorized module of a model."""
    found = {name: shape_of(module) for name, module in model.named_modules()}
    return {name: shape for name, shape in found.items() if shape is not None}


def shaped(
    view: AttentionView | LinearView, module: nn.Module, shape: Shape, field: str = "shape"
) -> nn.Module:
    """A module of a description, in place of a dense one: its weights have yet to be loaded.

    Args:
        view: of the dense module; gives sizes, dropout and scale.
        module: the dense module; gives device, data type and mode.
        shape: what the new module is.
        field: name of the description, for messages.

    Raises:
        ValueError: no such description, or one that does not go with the dense module.
    """
    check_shape(shape, field)
    attention = isinstance(view, AttentionView)
    replaces = f"what can replace its {type(module).__name__}"
    require((shape["kind"] == "attention") == attention, f"{field}.kind", shape["kind"], replaces)
    names = ("width", "heads", "head_width") if attention else ("inputs", "outputs")
    for name in names:
        size = getattr(view, name)
        require(shape[name] == size, f"{field}.{name}", shape[name], f"{size}, the dense module's")
    like = next(module.parameters())
    # On the meta device no random number is drawn for weights that are replaced at once.
    if isinstance(view, AttentionView):
        new: nn.Module = LowRankAttention(
            *(shape[name] for name in FIELDS["attention"][:5]),
            query_bias=shape["query_bias"],
            out_bias=shape["out_bias"],
            key_bias=shape.get("key_bias", False),
            # A copy: its memory is given up below.
            between=copy.deepcopy(view.score_module(module)),
            scale=shape.get("scale"),
            value_width=shape.get("value_width"),
            attn_drop=view.attn_drop,
            proj_drop=view.proj_drop,
            device="meta",
        )
    else:
        ends = (shape["inputs"], shape["outputs"], shape["rank"])
        new = LowRankLinear(*ends, bias=shape["bias"], device="meta")
    return new.to(like.dtype).to_empty(device=like.device).train(module.training)


def check_shape(shape: Any, field: str) -> None:
    """Raise unless this is a sound description.

    Raises:
        ValueError: a missing or unknown field, or a size that is none.
    """
    require(isinstance(shape, Mapping) and "kind" in shape, field, shape, "a mapping with a kind")
    require_known(str(shape["kind"]), FIELDS, f"{field}.kind")
    names = FIELDS[shape["kind"]]
    beside = {"kind", *OPTIONAL} if shape["kind"] == "attention" else {"kind"}
    differing = sorted(set(names) ^ (shape.keys() - beside))
    require(not differing, field, differing, f"exactly kind, {', '.join(names)}")
    scale = shape.get("scale", 1.0)
    sound = type(scale) is float and 0 < scale < float("inf")
    require(sound, f"{field}.scale", scale, "a number above 0")
    for name in (*names, *shape.keys() & {"value_width", "key_bias"}):
        value = shape[name]
        if "bias" in name:
            require(isinstance(value, bool), f"{field}.{name}", value, "true or false")
        else:
            sound = type(value) is int and value > 0
            require(sound, f"{field}.{name}", value, "an integer of 1 or more")


def shaped_modules(model: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, nn.Module]:
    """Modules of these descriptions for a dense model, which stays as it is.

    Raises:
        ValueError: a module that the model lacks, or a description that does not go with it.
    """
    if not shapes:
        return {}
    known, view = dict(model.named_modules()), view_of(model)
    parts: dict[str, AttentionView | LinearView] = {**view.attentions, **view.linears}
    new = {}
    for name, shape in shapes.items():
        require(name in known, "modules", name, "a module of the model")
        check_shape(shape, f"modules.{name}")
        require(name in parts, "modules", name, "a module that can be factorized")
        new[name] = shaped(parts[name], known[name], shape, f"modules.{name}")
    return new


def shape_(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Put factorized modules, without weights yet, in the place of a model's dense ones.

    Raises:
        ValueError: as `shaped_modules`; nothing is changed then.
    """
    for name, module in shaped_modules(model, shapes).items():
        model.set_submodule(name, module)


def state_with(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The model's state dict as it would be with these modules in place."""
    inside = tuple(f"{name}." for name in modules)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(inside)}
    for name, module in modules.items():
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return state


def shapes_for(model: nn.Module, plan: Plan, *, biases: bool = True) -> dict[str, dict[str, Any]]:
    """Name -> description of the modules that a plan makes of a dense model.

    Args:
        model: dense, on any device, the meta device too.
        plan: of all the model's sites or of some; the others stay dense.
        biases: whether those of the attention fold into the factors, or are dropped.

    Raises:
        ValueError: a site that the model lacks, or a rank that it cannot have.
    """
    view = view_of(model)
    sites = all_sites(view)
    names = [site.name for site in sites]
    shapes: dict[str, dict[str, Any]] = {}
    for name in plan.decisions:
        require_known(name, names, "plan.decisions")
    for site in sites:
        rank = site.check_rank(plan.decisions.get(site.name), f"plan.decisions.{site.name}")
        if rank is None:
            continue
        module: Any = model.get_submodule(site.module)
        if not site.attention:
            shapes[site.module] = {
                "kind": "linear",
                "inputs": site.inputs,
                "outputs": site.outputs,
                "rank": rank,
                "bias": module.bias is not None,
            }
            continue
        attention = view.attentions[site.module]
        heads = attention.read(dict(module.named_parameters()))
        key_bias = biases and heads.k_bias is not None and "qk" not in attention.products
        whole = {
            "kind": "attention",
            "width": attention.width,
            "heads": attention.heads,
            "head_width": attention.head_width,
            "qk_rank": attention.head_width,
            "vo_rank": attention.value_width,
            "query_bias": biases and heads.q_bias is not None,
            "out_bias": biases and (heads.v_bias is not None or heads.out_bias is not None),
            **_beside(attention.scale, attention.head_width, attention.value_width),
            **({"key_bias": True} if key_bias else {}),
        }
        shape = shapes.setdefault(site.module, whole)
        shape[f"{site.kind}_rank"] = rank // site.groups
    return shapes


def adoptable_modules(
    dense: nn.Module, model: nn.Module, plan: Plan, sites: Sequence[Site]
) -> dict[str, nn.Module]:
    """Modules for a dense model, without weights yet, of the shapes that a committed one has.

    Args:
        dense: the model that the modules are for; it stays as it is.
        model: committed, of the same dense model.
        plan: what it was committed to, at every one of `sites`.
        sites: the only ones that may be factorized.

    Raises:
        ValueError: the two models differ in more than factorization, or the plan is another.
    """
    shapes = shapes_of(model)
    foreign = sorted(shapes.keys() - {site.module for site in sites})
    require(
        not foreign,
        "model",
        foreign[:5],
        "factorized modules at the searched sites alone (method.sites, method.keep_dense)",
    )
    check_plan(model, plan)
    modules = shaped_modules(dense, shapes)
    check_tensors(model.state_dict(), state_with(dense, modules), "model")
    return modules


def plan_of(model: nn.Module) -> Plan:
    """The ranks that a model has, at all its sites; None where a module is dense.

    One side of a factorized attention may be whole: it counts as factorized at its full rank.

    Raises:
        ValueError: a model that the method does not support.
    """
    decisions: dict[str, int | None] = {}
    for site in model_sites(model):
        shape = shape_of(model.get_submodule(site.module))
        name = f"{site.kind}_rank" if site.attention else "rank"
        decisions[site.name] = None if shape is None else shape[name] * site.groups
    return Plan("lowrank", decisions)


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Raise unless a model has the ranks that a plan says, at the sites that it names.

    Raises:
        ValueError: a site that the model lacks, or another rank (both are named).
    """
    has, sites = plan_of(model).decisions, {site.name: site for site in model_sites(model)}
    for name, rank in plan.decisions.items():
        require_known(name, sites, "plan.decisions")
        # One side of a factorized attention may be left whole, which a plan calls dense.
        same = rank == has[name] or (rank is None and has[name] == sites[name].full)
        require(same, f"plan.decisions.{name}", rank, f"{has[name]}, the rank in the model")


def model_sites(model: nn.Module) -> list[Site]:
    """Every site of a model, dense or factorized, in the reference's order."""
    return all_sites(view_of(model))


def tokens_of(model: nn.Module) -> Tokens:
    """Nothing: ranks leave the tokens alone."""
    return {}


def summary(model: nn.Module, dense: nn.Module, tokens: Tokens) -> Summary:
    """Ranks and costs of a model, site by site; MACs at the tokens that other methods leave."""
    ranks = plan_of(model).decisions
    rows = [_row(site, ranks[site.name], tokens) for site in model_sites(model)]
    factorized = any(rank is not None for rank in ranks.values())
    return Summary(
        key=ROWS,
        columns={"site": "site", "rank": "rank", "of": "full_rank"},
        rows=rows,
        units=("params", "macs"),
        rest="all else, biases too",
        changed="its products of matrices kept at searched ranks" if factorized else "",
        tag="low-rank",
        note="Ranks of `qk` and `vo` are sums over the heads.",
    )


def _row(site: Site, rank: Any, tokens: Tokens) -> dict[str, Any]:
    """Rank (None: dense), weights without biases and MACs of one site."""
    here, block = site, site.name.rpartition(".")[0]
    if block in tokens:
        rows = tokens[block][0 if site.attention else 1]
        here = replace(site, tokens=rows, pairs=rows**2 if site.attention else 0)
    return {
        "site": site.name,
        "rank": rank,
        "full_rank": site.full,
        "params": site.cost("params", rank),
        "macs": here.cost("macs", rank),
        "dense_params": site.cost("params", None),
        "dense_macs": site.cost("macs", None),
    }


def _beside(scale: float, head_width: int, value_width: int) -> dict[str, Any]:
    """Scale and value width in a description; empty where they are the usual ones."""
    found: dict[str, Any] = {} if scale == head_width**-0.5 else {"scale": scale}
    return found if value_width == head_width else {**found, "value_width": value_width}
