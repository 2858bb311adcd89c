"""Low-rank weights, token compression, or both, at the same MACs.

Every arm has the same data, dense model, teacher, seeds and epochs of both phases, and one of three
budgets in multiply-accumulates; those that search have the same schedule. `uniform` is the control
of token compression: the same share of the tokens in every block, without a search. The dense model
that all arms begin with is their reference; it is not trained further.

What is not the method's own is equal, so that this is not DiffRate's published recipe (three epochs
of searching on frozen weights: `adacomcat.methods.tokens.recipe`). Nothing is aligned with the
teacher's blocks, since tokens that were dropped cannot be. All searches have DiffRate's penalty,
which pulls to the budget from both sides: that of ComCAT lets a search end far below it, and MACs
would not match.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from adacomcat.methods.tokens import recipe as diffrate
from adacomcat.overrides import build_config
from experiments.budget_sweep import centered_fractions
from study.spec.schema import Arm, Experiment, Workload

REDUCTIONS = (0.3, 0.4, 0.5)
"""Reductions of the dense model's MACs. The first block, and the last one of a model that averages
over its tokens, keep all tokens, so that a small model cannot lose much more."""
PATCHES: Mapping[str, int] = MappingProxyType({"digits": 1, "fashion_mnist": 4})
"""Workload -> side of a patch in pixels, where its own leaves too few tokens (16) to drop any; 64
and 49 then."""
WITHOUT_ALIGNMENT: Mapping[str, Any] = MappingProxyType(
    {f"{phase}.distill.align_blocks": [] for phase in ("search_phase", "finetune")}
)
PENALTY = ("search.penalty", "search.penalty_weight")
SHARE = 0.5
"""Share of a joint budget that the ranks save, see `adacomcat.methods.compose`."""


def experiment(workload: Workload, seeds: int = 3) -> Experiment:
    """Four methods at three budgets on one workload.

    Args:
        workload: data, dense model and recipe.
        seeds: trials of an arm.
    """
    tokens = diffrate.adapt(workload.defaults)
    shared: dict[str, Any] = {**WITHOUT_ALIGNMENT, **{key: tokens[key] for key in PENALTY}}
    if workload.name in PATCHES:
        shared["model.options.patch_size"] = PATCHES[workload.name]
    arms = [
        Arm(
            name=f"{name}_{round(100 * reduction)}",
            label=f"{label}, -{reduction:.0%}",
            overrides={
                **shared,
                "budget": {"unit": "macs", "reduction": reduction},
                **overrides,
            },
        )
        for reduction in REDUCTIONS
        for name, (label, overrides) in _methods(workload, reduction).items()
    ]
    return Experiment(
        name="methods_compared",
        question="Which method leaves the most accuracy at the same multiply-accumulates?",
        workload=workload,
        arms=tuple(arms),
        seeds=tuple(range(seeds)),
        figures=("fig_methods",),
    )


def _methods(workload: Workload, reduction: float) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (label, what makes the arm) at one budget."""
    adaptive = {"schedule": {"kind": "adaptive"}}
    tokens = _tokens(workload)
    ranks = _lowrank(workload, reduction)
    # What the ranks save where the tokens save as much.
    fewer = _lowrank(workload, 1 - (1 - reduction) ** SHARE)
    own = {key: value for key, value in fewer.items() if key != "name"}
    both = {"name": "lowrank+diffrate", "share": SHARE, "lowrank": own}
    return {
        "lowrank": ("low-rank", {"method": ranks, **adaptive}),
        "uniform": (
            "uniform rates",
            {"method": {"name": "diffrate"}, "schedule": {"kind": "never"}},
        ),
        "diffrate": ("DiffRate", {"method": {"name": "diffrate"}, **tokens, **adaptive}),
        "both": ("both", {"method": both, **adaptive}),
    }


def _lowrank(workload: Workload, reduction: float) -> dict[str, Any]:
    """The workload's own space of ranks; fractions are centered on what a budget allows."""
    method = dict(build_config(workload.defaults).method)
    if method.get("space", "fractions") == "paper":
        return method
    return {**method, "fractions": centered_fractions(reduction)}


def _tokens(workload: Workload) -> dict[str, Any]:
    """DiffRate's annealing, at the rate and the steps of the workload's searches."""
    lr = build_config(workload.defaults).search.lr
    return {
        "search.weight_decay": 0.0,
        "search.min_lr": lr / 10,
    }
