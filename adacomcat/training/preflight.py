"""Checks of a configuration against its data, model and method before a trial runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from adacomcat.checks import Refusal, require
from adacomcat.config import PhaseConfig, TrialConfig
from adacomcat.methods.base import Method
from adacomcat.schedule import Schedule
from adacomcat.search.strategy import Strategy
from adacomcat.training.distill import WithBlockOutputs
from adacomcat.training.loading import Loaders


def check_trial(
    config: TrialConfig, strategy: Strategy, schedule: Schedule, loaders: Loaders
) -> None:
    """Raise unless every phase that has epochs can run.

    Args:
        config: of the trial.
        strategy: of its searches, with the method bound to its model.
        schedule: before its first search.
        loaders: of the trial's data.

    Raises:
        ValueError: names the setting.
    """
    _check_schedule(schedule, config.search_phase.epochs)
    if config.search_phase.epochs and strategy.needs_images:
        with _below("search"):
            loaders.search(config.search.batch_size)
    for phase in ("search_phase", "finetune"):
        recipe: PhaseConfig = getattr(config, phase)
        if recipe.epochs and not recipe.frozen:
            with _below(phase):
                loaders.train(recipe.batch_size)
            _check_alignment(strategy.method, recipe.distill.align_blocks, phase)


@contextmanager
def _below(path: str) -> Iterator[None]:
    """Refusals with the place of the setting in the configuration."""
    try:
        yield
    except Refusal as refusal:
        raise refusal.below(path) from None


def due_epochs(schedule: Schedule, epochs: int) -> list[int]:
    """Epochs of a search phase at which the schedule, in its present state, is due to search."""
    return [epoch for epoch in range(epochs) if schedule.due(epoch)]


def _check_schedule(schedule: Schedule, epochs: int) -> None:
    never = schedule.kind == "never" or epochs <= 1
    require(
        never or bool(due_epochs(schedule, epochs)),
        "schedule",
        schedule.config(),
        f"a search within the {epochs} epochs of search_phase.epochs, or kind 'never'",
    )


def _check_alignment(method: Method, blocks: Sequence[int], phase: str) -> None:
    require(
        method.keeps_tokens or not blocks,
        f"{phase}.distill.align_blocks",
        list(blocks),
        f"[] with method.name {method.name!r}, whose blocks give other tokens than the dense "
        "model's",
    )
    WithBlockOutputs(method.model, blocks)
