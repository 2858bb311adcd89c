"""Plans of a trial over its epochs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

RankPlan = Mapping[str, int | None]
"""Site -> its rank; None where it is dense."""

_IN_BLOCK = re.compile(r"(?:.+\.)?(\d+)\.([^.]+)")


def in_force(
    epochs: Sequence[int], searches: Sequence[Mapping[str, Any]], final: RankPlan
) -> dict[int, RankPlan | None]:
    """The plan under which each epoch trained: epoch -> plan; None while the model is dense.

    A search at the start of an epoch already holds for that epoch. A trial that never searches has
    its one plan from epoch 1 on, where the others have their first search (`adacomcat.training`).

    Args:
        epochs: of the search phase.
        searches: the trial's rows, with `epoch` and `plan`, in their order.
        final: the plan that the trial ended with.
    """
    found = {int(search["epoch"]): search["plan"] for search in searches} or {1: final}
    plans, plan = {}, None
    for epoch in epochs:
        plan = found.get(epoch, plan)
        plans[epoch] = plan
    return plans


def place(site: str) -> dict[str, Any]:
    """Block and kind of a site: `blocks.3.qk` is the qk of block 3, `head` is in no block."""
    match = _IN_BLOCK.fullmatch(site)
    return {"block": int(match[1]), "kind": match[2]} if match else {"block": None, "kind": site}
