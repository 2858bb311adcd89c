"""Published settings of ComCAT (arXiv 2305.17235) and Adaptive-ComCAT."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PAPER_MENUS = (
    (192, (32, 64, 96, 128, 160)),
    (384, (64, 128, 192, 256, 320)),
    (768, (128, 192, 256, 320, 384, 448, 512)),
)
"""(width, ranks): the published menus, one for all kinds; a linear site's width is its smaller
side."""


def adapt(
    settings: Mapping[str, Any], *, epochs: int | None = None, macs: int | None = None
) -> dict[str, Any]:
    """A recipe as it is: recipes are for low ranks where they do not say otherwise."""
    return dict(settings)


def reference(settings: Mapping[str, Any], *, epochs: int | None = None) -> dict[str, Any]:
    """Settings changed to what the reference implementation does, confounds included.

    1. It searches and selects on the images that it reports, and trains on all others:
       `data.leakage` names both uses.
    2. The temperature anneals once a search.
    3. The optimizer is rebuilt at every search. (Its first epoch at the unscaled rate is not
       copied: the rate is scaled before the optimizer is built.)
    4. A search truncates the factors in force, so that a rank can only fall, and its menu has
       ranks at which two factors cost more than the dense matrix.
    5. The alignment weight compounds.
    6. Its interval, history and temperature are lost at a restart; here they never are.

    It also takes the most probable rank of each site, whatever that adds up to, truncates by the
    weights alone, and drops the biases of attention, while its finetuning has biases again.
    """
    return {
        **settings,
        "data.search_from": "test",
        "data.search_fraction": 0.0,
        "data.search_images": None,
        "data.val_from": "test",
        "data.val_fraction": 0.0,
        "search.clock": "per_search",
        "search.decision": "argmax",
        "search_phase.optimizer_state": "rebuild",
        "search_phase.distill.align_schedule": "compounding",
        "finetune.distill.align_schedule": "compounding",
        "method.space": "paper",
        "method.allow_larger": True,
        "method.source": "current",
        "method.metrics": "plain",
        "method.biases": "drop",
    }


PRETRAINED: Mapping[str, Any] = MappingProxyType({"metrics": "gradients"})
"""Own settings for a dense model with pretrained weights, on which plain truncation is near chance
(`benchmarks/real_vit.py`)."""


def part(method: Mapping[str, Any]) -> dict[str, Any]:
    """Own settings beside another method, from those of a search for ranks alone.

    A recipe's list of fractions is centered on what ranks save alone; here they save less, and have
    the method's own list.
    """
    return {key: value for key, value in method.items() if key not in ("name", "fractions")}


def one_shot(method: Mapping[str, Any], *, images: bool) -> dict[str, Any]:
    """Own settings for a compression in one call: for the loss where there are images."""
    return {"space": "fine", **({"metrics": "gradients"} if images else {}), **method}


def space(width: int, classes: int) -> str:
    """The space of ranks for a model: the published menus where there are any, else fractions.

    Args:
        width: channels of its last tokens.
        classes: outputs of its classifier.
    """
    menus = dict(PAPER_MENUS)
    return "paper" if width in menus and min(width, classes) in menus else "fractions"


def imagenet_recipe(*, base: bool) -> dict[str, Any]:
    """The published recipe of DeiT on images from files, without data, model and weights.

    Sources: the commands and defaults of ComCAT (arXiv 2305.17235) and Adaptive-ComCAT, which are
    DeiT's (arXiv 2012.12877, table 9) where they say nothing: 300 epochs of finetuning on four
    workers with 256 images each among them. Differs: both phases repeat augmentation, the
    reference's search phase (one GPU) does not; bfloat16 for float16.

    Args:
        base: the numbers of DeiT-Base, not of Small.
    """
    common = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "bf16": True}
    return {
        "budget": {"reduction": 0.6 if base else 0.5},
        "schedule": {"kind": "adaptive"},
        "search": {"batch_size": 16 if base else 64, "beta": 1.5, "bf16": True},
        "search_phase": {
            "epochs": 30,
            "batch_size": 320 if base else 512,
            "lr": 5e-4,
            "min_lr": 1e-5,
            "weight_decay": 0.05,
            **common,
            "distill": {"kind": "hard", "align_blocks": [0, 1, -2, -1]},
        },
        "finetune": {
            "epochs": 300,
            "batch_size": 1024,
            "lr": 1e-4,
            "min_lr": 1e-6 if base else 5e-6,
            "weight_decay": 5e-3,
            **common,
            # The reference gives Base the rate as it stands, unscaled.
            "lr_batch_size": 1024 if base else 512,
            "distill": {"kind": "hard", "align_blocks": [0, 1, -2, -1]},
        },
    }
