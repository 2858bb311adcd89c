"""Published settings of DiffRate (arXiv 2305.17997)."""

from collections.abc import Mapping
from typing import Any

from adacomcat.overrides import build_config

EPOCHS = 3
"""Searches, one an epoch."""


def adapt(
    settings: Mapping[str, Any], *, epochs: int | None = None, macs: int | None = None
) -> dict[str, Any]:
    """Settings changed to a search for token rates (DiffRate, arXiv 2305.17997).

    As published: three searches with frozen weights, one an epoch, of as many steps as ImageNet has
    batches of 1024; AdamW without weight decay, from 0.01 to 0.001; the squared penalty of MACs;
    30 epochs of finetuning at a rate of 2e-5 whatever the batch; no distillation. The target is
    that of DeiT-S at 2.9 of 4.6 GMACs.

    Where a recipe trains its dense model itself, that is a small one: a search takes 100 steps at
    ten times the rate, which move a logit about as far, against a penalty ten times as heavy, since
    one of few tokens says more; and finetuning stays as the recipe has it.

    Differs: a search sees the images that are kept for it, as they are, in batches of the recipe's
    size, with the model in evaluation mode; the rate falls step by step; the unit of the penalty
    is in proportion to the model, see `SearchConfig.penalty_unit`.

    Args:
        settings: of a recipe for another method.
        epochs: of the search phase, if not three; each is a search.
        macs: of a model that has its token counts already: the budget, in place of the published
            one, which may be out of its reach.
    """
    free = ("method", "schedule")
    kept = {key: value for key, value in settings.items() if key.partition(".")[0] not in free}
    config = build_config(kept)
    small = config.dense.recipe.epochs > 0
    finetune = {
        "finetune.epochs": 30,
        "finetune.lr": 2e-5,
        "finetune.min_lr": 1e-6,
        "finetune.lr_batch_size": config.finetune.batch_size,
    }
    return {
        **kept,
        "method": {"name": "diffrate"},
        "schedule": {
            "kind": "explicit",
            "epochs": list(range(EPOCHS if epochs is None else epochs)),
        },
        "budget.unit": "macs",
        "budget.reduction": 0.37 if macs is None else None,
        "budget.absolute": macs,
        "search.steps": 100 if small else 1251,
        "search.images": None,
        "search.stable_steps": None,
        "search.lr": 0.1 if small else 0.01,
        "search.min_lr": 0.01 if small else 0.001,
        "search.weight_decay": 0.0,
        "search.noise": False,
        "search.penalty": "squared",
        "search.penalty_weight": 50.0 if small else 5.0,
        "search_phase.epochs": EPOCHS,
        "search_phase.frozen": True,
        **({} if small else finetune),
        **{
            f"{phase}.distill.{key}": value
            for phase in ("search_phase", "finetune")
            for key, value in (("kind", "none"), ("align_blocks", []))
        },
    }


def reference(settings: Mapping[str, Any], *, epochs: int | None = None) -> dict[str, Any]:
    """Settings of `adapt`, changed to the behavior of the published code in a search.

    1. Tokens a block differ by four. (All published DeiT rates but one end in counts that this
       cannot reach.)
    2. Sizes of merged tokens are damped by their similarity, below zero too, and kept at 1 or more
       in a search alone.
    3. MACs are those of the paper's formula; where a block prunes and merges, both counts get the
       gradient of the smaller one. A unit of the penalty is 1e9 of them, whatever the model: on a
       small one the penalty hardly pulls.
    4. Dropout and drop-path are on.
    5. The counts that the search ends with are the plan, whatever that costs.

    Not copied: mixup and augmentation of the images that a search sees, of which it sees all that
    the weights are trained on.
    """
    return {
        **adapt(settings, epochs=epochs),
        "method": {
            "name": "diffrate",
            "granularity": 4,
            "sizes": "reference",
            "mask_gradient": "reference",
            "min_gradient": "both",
            "macs": "published",
        },
        "search.penalty_unit": 1e9,
        "search.train_mode": True,
        "search.decision": "argmax",
    }


def part(method: Mapping[str, Any]) -> dict[str, Any]:
    """Own settings beside another method: the defaults."""
    return {}


def one_shot(method: Mapping[str, Any], *, images: bool) -> dict[str, Any]:
    """Own settings for a compression in one call, which looks at no image."""
    return dict(method)
