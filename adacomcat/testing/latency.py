"""Synthetic latency tables, for tests that measure nothing."""

import random
from typing import Any

from torch import nn

from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.latency import sizes_by_kind
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.spec import model_sites


def made_up_table(model: nn.Module, *, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """A table for `budget.latency` with all features of measured ones.

    The largest rank of each kind is slower than dense, and a smaller rank may be slower than a
    larger one. All but the largest ranks of each kind leave far less than half of the dense time.

    Args:
        model: dense.
        seed: of the times.
        settings: of the method.
    """
    source = random.Random(seed)
    method, sizes = LowRank(model, LowRankConfig(**settings)), sizes_by_kind(model_sites(model))
    kinds: dict[str, Any] = {}
    for site in method.sites:
        if site.kind in kinds:
            continue
        dense = source.randint(1000, 2000)
        fast = {str(c.rank): source.randint(100, dense // 2) for c in site.candidates[:-1]}
        slow = {str(site.candidates[-1].rank): source.randint(dense, 2 * dense)}
        kinds[site.kind] = {**sizes[site.kind], "dense_ns": dense, "rank_ns": {**fast, **slow}}
    # A tenth beyond the sites: norms, patches and the like.
    total = sum(entry["sites"] * entry["dense_ns"] for entry in kinds.values())
    return {"on": "made up", "model_ns": round(1.1 * total), "kinds": kinds}
