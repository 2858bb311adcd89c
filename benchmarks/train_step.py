"""One training step: the dense model, a compressed student, and the student with a teacher.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda --dtype bfloat16 --batch-size 256

`one teacher forward` is the step of the search phase and of finetuning: hard distillation and the
alignment of four blocks, both served by one forward of the teacher. `two teacher forwards` is how
the reference does it, one for the labels and one for the blocks; the losses must be the same.
`teacher` is one forward of it, without a gradient. All steps are those of `adacomcat.training`,
optimizer included.
"""

import argparse
from contextlib import ExitStack
from typing import Any

import torch
from memory import TITLES, memory_of, memory_of_call
from models import add_sizes, commit_by_default_, drawn_batch, drawn_model
from record import write_record
from timing import (
    TIME_TITLES,
    Bar,
    largest_difference,
    parser_of,
    precision,
    print_bars,
    print_table,
    run,
    settings_of,
    time_cells,
)
from torch import Tensor

from adacomcat.config import DistillConfig, PhaseConfig
from adacomcat.timing import Variant, take_turns
from adacomcat.training.distill import Distiller, Outputs
from adacomcat.training.phase import Phase

DENSE, ALONE, ONE, TWO, TEACHER = (
    "dense",
    "committed",
    "one teacher forward",
    "two teacher forwards",
    "teacher",
)
TAUGHT = (ONE, TWO)
STUDENTS = (DENSE, ALONE, *TAUGHT)
VARIANTS = (*STUDENTS, TEACHER)
DIFFERENCE = 1e-5
"""Allowed difference of the losses of the first step, relative to the larger one."""


class TwoForwards(Distiller):
    """A distiller whose teacher runs once for the labels and once for the blocks."""

    def teach(self, images: Tensor) -> Outputs:
        for_labels, for_blocks = super().teach(images), super().teach(images)
        return for_labels[0], for_blocks[1]


class Step:
    """The step of one variant, on models of its own.

    Attributes:
        call: what is timed.
        forwards: how often the teacher has run.
        losses: (2,), of the last step: the loss and the loss without alignment.
    """

    def __init__(self, variant: str, arguments: argparse.Namespace, stack: ExitStack) -> None:
        """
        Args:
            variant: one of `VARIANTS`.
            arguments: the flags.
            stack: holds what has to stay open while steps are taken.
        """
        self.forwards, self.losses = 0, torch.zeros(2)
        model = drawn_model(arguments)
        images, labels = drawn_batch(model, arguments.batch_size, arguments.device)
        recipe = recipe_of(arguments, taught=variant not in (DENSE, ALONE))
        if variant == TEACHER:
            distiller = Distiller(model.requires_grad_(False), recipe.distill)
            stack.enter_context(distiller.hooked())
            self.call: Variant = lambda: self._teach(distiller, images, arguments)
            return
        teacher = drawn_model(arguments).requires_grad_(False) if variant in TAUGHT else None
        if variant != DENSE:
            commit_by_default_(model, arguments.reduction)
        phase = Phase(model, recipe, teacher)
        if teacher is not None:
            teacher.register_forward_hook(self._count)
            if variant == TWO:
                phase.distiller = TwoForwards(teacher, recipe.distill)
        stack.enter_context(phase.training())
        self.call = lambda: self._train(phase, images, labels)

    def _train(self, phase: Phase, images: Tensor, labels: Tensor) -> None:
        self.losses = phase.step(images, labels, phase.recipe.distill.align_weight)

    def _teach(self, distiller: Distiller, images: Tensor, arguments: argparse.Namespace) -> None:
        with precision(arguments):
            distiller.teach(images)

    def _count(self, *_: Any) -> None:
        self.forwards += 1


def recipe_of(arguments: argparse.Namespace, *, taught: bool) -> PhaseConfig:
    """DeiT's, as far as a step sees it; the rate is so small that random weights stay finite."""
    distill = DistillConfig() if taught else DistillConfig(kind="none", align_blocks=())
    bf16 = arguments.dtype == "bfloat16"
    return PhaseConfig(lr=1e-6, min_lr=0.0, bf16=bf16, distill=distill)


def compare(arguments: argparse.Namespace) -> None:
    """Measure all variants, print the table and write the record."""
    with ExitStack() as stack:
        steps = {variant: Step(variant, arguments, stack) for variant in VARIANTS}
        for variant in TAUGHT:
            steps[variant].call()
        first = {variant: steps[variant].losses for variant in TAUGHT}
        forwards = {variant: steps[variant].forwards for variant in TAUGHT}
        calls = {variant: steps[variant].call for variant in VARIANTS}
        times = take_turns(calls, repeats=arguments.repeats, device=arguments.device)
    memory = {variant: memory_of(__file__, variant, arguments) for variant in STUDENTS}
    sizes = {v: found.cells for v, found in memory.items()}
    rows = [
        (v, *time_cells(found), found.over(times[DENSE]).median, *sizes.get(v, ()))
        for v, found in times.items()
    ]
    print_table(("variant", *TIME_TITLES, "over dense", *TITLES), rows)
    saved = times[TWO].over(times[ONE]).median
    print(f"two teacher forwards take {saved:.3f} times as long as one")
    difference = largest_difference(first[ONE], first[TWO])
    bars = [
        Bar("teacher forwards a step, shared", forwards[ONE], "at most", 1),
        Bar("teacher forwards a step, apart", forwards[TWO], "at least", 2),
        Bar("difference of the losses", difference, "at most", DIFFERENCE),
    ]
    print_bars(bars)
    write_record(
        arguments.output,
        "train_step",
        settings_of(arguments),
        variants={v: found.to_json() for v, found in times.items()},
        memory={v: vars(found) for v, found in memory.items()},
        two_over_one=saved,
        bars=[bar.to_json() for bar in bars],
    )


def main() -> None:
    parser = parser_of(
        __doc__, benchmark="train_step", model="deit_small_patch16_224", batch_size=8, repeats=7
    )
    add_sizes(parser)
    reduction = "of the committed model (default: 0.5)"
    parser.add_argument("--reduction", type=float, default=0.5, help=reduction)
    parser.add_argument("--variant", choices=STUDENTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    run(compare if arguments.variant is None else _memory_of_variant, arguments)


def _memory_of_variant(arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        memory_of_call(Step(arguments.variant, arguments, stack).call, arguments)


if __name__ == "__main__":
    main()
