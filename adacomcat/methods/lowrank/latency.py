"""Model latency as a sum over sites, from times measured on the target device.

One site of each kind and size is measured: its dense module, and its factorized one at every
candidate rank. Two sites share an attention; with T the time of the module,

    cost_qk(None) = cost_vo(None) = T_dense / 2
    cost_qk(r) = cost_vo(r) = T(r, r) / 2,

so that a module sums to what was measured where both sides have one rank. Where they differ, the
wider one sets the width of the fused kernel, and the sum is a little low. With one side alone
searched the other is always whole: its cost is T(r, full) - T_dense / 2. Whatever else a model does
costs what the whole dense one takes beyond its sites.

The table is plain data, as `budget.latency` has it:

    on           text: model, device, batch size, data type, threads
    model_ns     the whole dense model, nanoseconds an image
    kinds        kind (or where sites of a kind differ in size, the name of the first of each
                 further size) -> sites (how many such the model has), inputs, outputs, heads,
                 tokens of one; dense_ns, and rank_ns: rank (as text) -> nanoseconds an image
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.methods.base import MeasuredOption
from adacomcat.methods.lowrank.space import Site, SiteTimes
from adacomcat.methods.lowrank.spec import shape_, shaped_modules, shapes_for
from adacomcat.plan import Plan
from adacomcat.timing import AT_LEAST_S, Times, take_turns

FIELD = "budget.latency"
AGAIN = "measure again with the same model and the same settings of the method"
MODEL, ATTENTION = "model", "attention"
CPU_AT_LEAST_S = 1e-3
"""Shortest stretch of calls on a CPU. Longer ones would find a module's weights in the cache, which
they are not when a whole model runs; on a GPU only calls in a row hide what a launch costs."""


# Reading a table.


def timed_sites(
    sites: Sequence[Site], all_sites: Sequence[Site], table: Mapping[str, Any]
) -> tuple[list[Site], int]:
    """The sites with their times, and those of the whole dense model in nanoseconds an image.

    Args:
        sites: those that are searched.
        all_sites: every site of the model.
        table: as above; what it has beyond these sites is left alone.

    Raises:
        ValueError: a table that is damaged, of another model or of another space of ranks.
    """
    known = ("on", "model_ns", "kinds")
    require(set(table) == set(known), FIELD, sorted(table), ", ".join(known))
    _check_ns(table["model_ns"], f"{FIELD}.model_ns")
    kinds = table["kinds"]
    require(isinstance(kinds, Mapping), f"{FIELD}.kinds", kinds, "a mapping from kinds to times")
    for kind, sizes in sizes_by_kind(all_sites).items():
        if any(site.timed_as == kind for site in sites):
            require(kind in kinds, f"{FIELD}.kinds", sorted(kinds), f"with {kind} too: {AGAIN}")
            _check_kind(kinds[kind], sizes, f"{FIELD}.kinds.{kind}")
    return [_timed(site, kinds[site.timed_as]) for site in sites], table["model_ns"]


def sizes_by_kind(all_sites: Sequence[Site]) -> dict[str, dict[str, int]]:
    """Entry of a table -> how many sites it is for, and the sizes of one."""
    found: dict[str, dict[str, int]] = {}
    for site in all_sites:
        sizes = {
            "inputs": site.inputs,
            "outputs": site.outputs,
            "heads": site.groups,
            "tokens": site.tokens,
        }
        entry = found.setdefault(site.timed_as, {"sites": 0, **sizes})
        assert {**entry, **sizes} == entry, f"sites timed as {site.timed_as} differ"
        entry["sites"] += 1
    return found


def _check_kind(entry: Any, sizes: Mapping[str, int], field: str) -> None:
    names = [*sizes, "dense_ns", "rank_ns"]
    sound = isinstance(entry, Mapping) and set(entry) == set(names)
    got = sorted(entry) if isinstance(entry, Mapping) else entry
    require(sound, field, got, f"exactly {', '.join(names)}")
    for name, size in sizes.items():
        require(entry[name] == size, f"{field}.{name}", entry[name], f"{size}, this model's")
    _check_ns(entry["dense_ns"], f"{field}.dense_ns")
    ranks = entry["rank_ns"]
    require(isinstance(ranks, Mapping), f"{field}.rank_ns", ranks, "a mapping from ranks to times")
    for rank, ns in ranks.items():
        sound = isinstance(rank, str) and rank.isdigit()
        require(sound, f"{field}.rank_ns", rank, "ranks in digits")
        _check_ns(ns, f"{field}.rank_ns.{rank}")


def _check_ns(value: Any, field: str) -> None:
    require(type(value) is int and value > 0, field, value, "nanoseconds, an integer above 0")


def _timed(site: Site, entry: Mapping[str, Any]) -> Site:
    ranks = {int(rank): ns for rank, ns in entry["rank_ns"].items()}
    missing = [c.rank for c in site.candidates if c.rank not in ranks]
    require(
        not missing,
        f"{FIELD}.kinds.{site.timed_as}.rank_ns",
        f"ranks {sorted(ranks)}",
        f"with {', '.join(map(str, missing))} too, candidates of {site.name}: {AGAIN}",
    )
    times = SiteTimes(entry["dense_ns"], {c.rank: ranks[c.rank] for c in site.candidates})
    return dataclasses.replace(site, times=times)


# Measuring one.


def measure(
    model: nn.Module, sites: Sequence[Site], images: Tensor, *, biases: bool, repeats: int
) -> dict[str, Times]:
    """Seconds a call of the whole dense model, and of the modules of one site a kind and size.

    Args:
        model: dense, in evaluation mode.
        sites: those that are searched, with their candidates.
        images: (B, C, H, W), on the model's device and of its data type.
        biases: whether those of the attention fold into the factors, or are dropped.
        repeats: rounds of the measurement.

    Returns:
        `model`, dense modules by `dense_name`, and `ENTRY RANK` -> times.
    """
    calls: dict[str, Any] = {MODEL: partial(model, images)}
    measured = _first_of_each(sites)
    inputs = _inputs(model, [site.module for site in measured.values()], images)
    for kind, site in measured.items():
        dense = model.get_submodule(site.module)
        args, kwargs = inputs[site.module]
        calls.setdefault(dense_name(kind), partial(dense, *args, **kwargs))
        for candidate in site.candidates:
            both = {s.name: candidate.rank for s in sites if s.module == site.module}
            shapes = shapes_for(model, Plan("lowrank", both), biases=biases)
            module = _filled(shaped_modules(model, shapes)[site.module])
            calls[f"{kind} {candidate.rank}"] = partial(module, *args, **kwargs)
    return _timed_calls(calls, images, repeats)


def measure_plans(
    model: nn.Module, plans: Mapping[str, Plan], images: Tensor, *, biases: bool, repeats: int
) -> dict[str, Times]:
    """Seconds a call of the whole model, dense as `model` and committed to each plan."""
    calls: dict[str, Any] = {MODEL: partial(model, images)}
    for name, plan in plans.items():
        committed = copy.deepcopy(model)
        shapes = shapes_for(committed, plan, biases=biases)
        shape_(committed, shapes)
        for module in shapes:
            _filled(committed.get_submodule(module))
        calls[name] = partial(committed, images)
    return _timed_calls(calls, images, repeats)


def table_of(
    times: Mapping[str, Times],
    sites: Sequence[Site],
    all_sites: Sequence[Site],
    *,
    batch_size: int,
    on: str,
) -> dict[str, Any]:
    """The table that these measurements make.

    Args:
        times: of `measure`.
        sites: those that were measured.
        all_sites: every site of the model.
        batch_size: images of a call.
        on: what the times are of, in words.
    """

    def ns(name: str) -> int:
        # A module too fast for the clock, or a difference lost in noise, is no less than nothing.
        return max(1, round(times[name].median * 1e9 / batch_size))

    sizes = sizes_by_kind(all_sites)
    kinds: dict[str, dict[str, Any]] = {}
    for kind, site in _first_of_each(sites).items():
        dense = ns(dense_name(kind))
        other = 0
        if site.attention:
            other = dense // 2 if site.kind == "vo" else dense - dense // 2
        alike = site.attention and {"qk", "vo"} <= {
            other.kind for other in sites if other.module == site.module
        }
        found = {c.rank: ns(f"{kind} {c.rank}") for c in site.candidates}
        ranks = {str(r): max(1, t // 2 if alike else t - other) for r, t in found.items()}
        kinds[kind] = {**sizes[kind], "dense_ns": max(1, dense - other), "rank_ns": ranks}
    return {"on": on, "model_ns": ns(MODEL), "kinds": kinds}


def dense_name(entry: str) -> str:
    """Key of the dense module's time of an entry; two sites share an attention."""
    block, _, kind = entry.rpartition(".")
    return f"{ATTENTION} {block}".strip() if kind in ("qk", "vo") else entry


def measured_options(table: Mapping[str, Any], times: Mapping[str, Times]) -> list[MeasuredOption]:
    """The rows of a table, with the times that it was made of."""
    whole = table["model_ns"]
    found = [MeasuredOption(MODEL, "dense", times[MODEL], whole, whole)]
    for kind, entry in table["kinds"].items():
        dense = entry["dense_ns"]
        found.append(MeasuredOption(kind, "dense", times[dense_name(kind)], dense, dense))
        for rank, ns in entry["rank_ns"].items():
            found.append(MeasuredOption(kind, rank, times[f"{kind} {rank}"], ns, dense))
    return found


def _first_of_each(sites: Sequence[Site]) -> dict[str, Site]:
    """Entry of a table -> the first of the sites that it is for."""
    found: dict[str, Site] = {}
    for site in sites:
        found.setdefault(site.timed_as, site)
    return found


@torch.no_grad()
def _inputs(
    model: nn.Module, names: Sequence[str], images: Tensor
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Name of a module -> the arguments that the model gives it."""
    found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def remember(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found[name] = (args, kwargs)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            partial(remember, name), with_kwargs=True
        )
        for name in names
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _filled(module: nn.Module) -> nn.Module:
    """Give a module weights: what lies in fresh memory may be numbers that are slow to multiply."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    return module


def _timed_calls(calls: Mapping[str, Any], images: Tensor, repeats: int) -> dict[str, Times]:
    kind = images.device.type
    at_least_s = CPU_AT_LEAST_S if kind == "cpu" else AT_LEAST_S
    with torch.inference_mode():
        return take_turns(calls, repeats=repeats, device=kind, at_least_s=at_least_s)
