"""Numbers that others published on the same dense model and data, to stand beside a study's own.

Where each stands, as looked up in November 2026:

- accuracy of the dense models: README_deit.md of github.com/facebookresearch/deit, what evaluating
  the released weights gives (table 5 of the paper, arXiv 2012.12877, has 79.8 and 81.8);
- parameters and MACs of the dense models: timm's models by `adacomcat.cost`; a test counts the
  parameters again. (timm's model cards say 4.6 and 17.6 GMACs.)
- DiffRate (arXiv 2305.17997): README.md of github.com/OpenGVLab/DiffRate, without fine-tuning. Its
  FLOPs are multiply-accumulates by its own formula, which leaves out up to 0.025 G of what
  `adacomcat.cost` counts: the similarities of tokens.
- Adaptive-ComCAT: epoch 29 of the published run's log; parameters as the log has them, MACs of its
  last ranks by `python -m adacomcat info --model deit_small_patch16_224 --ranks F --biases drop`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from adacomcat.config import leakage_note


@dataclass(frozen=True)
class Point:
    """One published model.

    Attributes:
        name: short, for the figure.
        test_acc: top-1 on ImageNet's validation images, a share.
        params: all parameters; None where they are not reduced (DiffRate drops tokens).
        macs: multiply-accumulates of one image of 224 x 224.
        source: where the numbers stand.
        leakage: what of its making saw the images that it reports on, as far as is known.
    """

    name: str
    test_acc: float
    params: float | None
    macs: float
    source: str
    leakage: str = ""


_DEIT = "README of its code, size counted here"
_DIFFRATE = "README of its code, its own count of MACs"

POINTS: Mapping[str, tuple[Point, ...]] = MappingProxyType(
    {
        "deit_small_imagenet": (
            Point("DeiT-S", 0.79854, 22_050_664, 4_598_882_304, _DEIT),
            Point(
                "Adaptive-ComCAT's log",
                0.75874,
                10_991_976,
                2_256_399_212,
                "epoch 29 of the published run, without a finetune phase, MACs counted here",
                leakage_note(("search", "selection")),
            ),
            Point("DiffRate", 0.79538, None, 2.905e9, _DIFFRATE),
        ),
        "deit_base_imagenet": (
            Point("DeiT-B", 0.81846, 86_567_656, 17_563_828_224, _DEIT),
            Point("DiffRate", 0.81498, None, 11.517e9, _DIFFRATE),
        ),
    }
)
"""Workload -> what was published on its dense model."""

RECIPE = "_upstream"
"""Ending of a workload of the same dense model and data that follows the reference's recipe."""


def points(workload: str) -> tuple[Point, ...]:
    """What was published for the dense model and the data of a workload; often nothing."""
    return POINTS.get(workload.removesuffix(RECIPE), ())
