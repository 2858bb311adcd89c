"""Numbers that others published on the same dense model and data, to stand beside a study's own."""

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
        params: all parameters; None where they were not published, or not reduced (DiffRate drops
            tokens).
        macs: multiply-accumulates of one image of 224 x 224; None where they were not published.
        source: where the numbers stand.
        leakage: what of its making saw the images that it reports on, as far as is known.
    """

    name: str
    test_acc: float
    params: float | None
    macs: float | None
    source: str
    leakage: str = ""


_DEIT = "Touvron et al., arXiv 2012.12877"
_DIFFRATE = "Chen et al., arXiv 2305.17997, README of its code"

POINTS: Mapping[str, tuple[Point, ...]] = MappingProxyType({
    "deit_small_imagenet": (
        Point("DeiT-S", 0.798, 22_050_664, 4.6e9, _DEIT),
        Point(
            "Adaptive-ComCAT's log", 0.75874, 10_991_976, None,
            "log of the published run, epoch 29, without a finetune phase",
            leakage_note(("search", "selection")),
        ),
        Point("DiffRate", 0.79538, None, 2.905e9, _DIFFRATE),
    ),
    "deit_base_imagenet": (
        Point("DeiT-B", 0.818, 86_567_656, 17.6e9, _DEIT),
        Point("DiffRate", 0.81498, None, 11.517e9, _DIFFRATE),
    ),
})  # fmt: skip
"""Workload -> what was published on its dense model."""


def points(workload: str) -> tuple[Point, ...]:
    """What was published for the dense model and the data of a workload; often nothing."""
    return POINTS.get(workload, ())
