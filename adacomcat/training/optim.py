"""Optimizer, learning rate, and optimizer state across changes of the plan."""

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

from adacomcat.config import PhaseConfig
from adacomcat.methods.base import ParameterMap

MOMENTS = (("exp_avg", 1), ("exp_avg_sq", 2))
"""AdamW's state and the power of the gradient that each is linear in."""


def build_optimizer(model: nn.Module, phase: PhaseConfig) -> Optimizer:
    """AdamW, without weight decay on biases, norms, tokens and positions (timm's grouping).

    The learning rate is scaled by batch / `lr_batch_size` before the optimizer is built; the
    reference scales after, so that its first epoch runs at the unscaled rate.
    """
    lr = phase.lr * phase.batch_size / phase.lr_batch_size
    return create_optimizer_v2(model, opt="adamw", lr=lr, weight_decay=phase.weight_decay)


def set_learning_rate(optimizer: Optimizer, phase: PhaseConfig, epoch: int) -> float:
    """Give the optimizer the rate of an epoch, after warm-up and cosine, and return it."""
    # The rate depends on the epoch alone, so the scheduler carries no state from epoch to epoch.
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    scheduler = CosineLRScheduler(
        optimizer,
        # timm warns of a cosine of one epoch; two begin with the same rate.
        t_initial=max(phase.epochs, 2),
        lr_min=phase.min_lr,
        warmup_t=phase.warmup_epochs,
        warmup_lr_init=phase.min_lr,
    )
    scheduler.step(epoch)
    return float(optimizer.param_groups[0]["lr"])


def migrate(
    old: Optimizer, model: nn.Module, phase: PhaseConfig, changes: ParameterMap
) -> Optimizer:
    """The optimizer of a model that `commit_` changed, with the migrated state of the old one.

    Untouched parameters keep their state bit for bit; replaced ones get their moments through the
    map; what neither holds starts fresh.
    """
    new = build_optimizer(model, phase)
    for parameter in model.parameters():
        if parameter in old.state:
            new.state[parameter] = old.state[parameter]
    for move in changes.moves:
        known = {name: old.state[p] for name, p in move.old.items() if p in old.state}
        if len(known) < len(move.old):
            continue
        step = next(iter(known.values()))["step"]
        carried = {
            key: move.carry({name: state[key] for name, state in known.items()}, power)
            for key, power in MOMENTS
        }
        for name, parameter in move.new.items():
            if name in carried["exp_avg"]:
                moments = {key: values[name].contiguous() for key, values in carried.items()}
                new.state[parameter] = {"step": step.clone(), **moments}
    return new
