"""The recipe of a phase of training, with what it distils."""

from dataclasses import dataclass, field
from typing import Literal

from adacomcat.checks import require


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What the student learns from the dense model."""

    kind: Literal["none", "soft", "hard"] = "hard"
    """`hard`: cross-entropy with the teacher's label; `soft`: KL at a temperature (DeiT)."""
    weight: float = 0.5
    """Share of the loss that distillation takes from the labels."""
    temperature: float = 3.0
    """Of `soft`."""
    align_blocks: tuple[int, ...] = (0, 1, -2, -1)
    """Blocks whose outputs are pulled to the teacher's by mean squared error; () for none."""
    align_weight: float = 0.5
    align_schedule: Literal["cosine", "compounding", "constant"] = "cosine"
    """`cosine`: w cos(pi t / 2T); `compounding`: the product of those factors (reference)."""
    align_floor: float = 0.01
    """The alignment weight never falls below this."""

    def __post_init__(self) -> None:
        kinds = ("none", "soft", "hard")
        require(self.kind in kinds, "distill.kind", self.kind, "none, soft, hard")
        require(0 <= self.weight <= 1, "distill.weight", self.weight, "between 0 and 1")
        require(self.temperature > 0, "distill.temperature", self.temperature, "above 0")
        require(self.align_weight >= 0, "distill.align_weight", self.align_weight, "0 or more")
        require(self.align_floor >= 0, "distill.align_floor", self.align_floor, "0 or more")
        schedules = ("cosine", "compounding", "constant")
        require(
            self.align_schedule in schedules,
            "distill.align_schedule",
            self.align_schedule,
            ", ".join(schedules),
        )
        # JSON has no tuples: a configuration read back must equal the one written.
        object.__setattr__(self, "align_blocks", tuple(self.align_blocks))


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """The recipe of one phase: dense training, search phase or finetune phase."""

    epochs: int = 30
    frozen: bool = False
    """Of a search phase: an epoch is its search alone, and the weights stay as they are."""
    batch_size: int = 64
    """Images of one step, over all workers."""
    lr: float = 5e-4
    """At a batch of `lr_batch_size` images; scaled linearly, before the optimizer is built."""
    lr_batch_size: int = 512
    """DeiT's reference batch of the linear rule."""
    min_lr: float = 1e-5
    warmup_epochs: int = 0
    weight_decay: float = 0.05
    clip_grad: float | None = None
    """Largest norm of the gradient; None: not clipped."""
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    accumulate: int = 1
    """Parts that a batch is passed through the model in; the gradients add up."""
    ema_decay: float | None = None
    """Of a moving average of the weights, which is what is evaluated and what the phase leaves;
    None: no average."""
    compile: bool = False
    """Train through `torch.compile`."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    bf16: bool = False
    """Autocast to bfloat16 where the device has it."""
    optimizer_state: Literal["migrate", "rebuild"] = "migrate"
    """At a change of ranks; the reference rebuilds."""

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "phase.epochs", self.epochs, "0 or more")
        require(self.batch_size > 0, "phase.batch_size", self.batch_size, "1 or more")
        require(self.lr > 0, "phase.lr", self.lr, "above 0")
        require(0 <= self.min_lr, "phase.min_lr", self.min_lr, "0 or more")
        require(self.warmup_epochs >= 0, "phase.warmup_epochs", self.warmup_epochs, "0 or more")
        require(self.weight_decay >= 0, "phase.weight_decay", self.weight_decay, "0 or more")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "phase.label_smoothing", smoothing, "from 0 to below 1")
        for name in ("mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"phase.{name}", getattr(self, name), "0 or more")
        require(self.accumulate >= 1, "phase.accumulate", self.accumulate, "1 or more")
        require(
            self.batch_size % self.accumulate == 0,
            "phase.accumulate",
            self.accumulate,
            f"a divisor of phase.batch_size ({self.batch_size})",
        )
        decay = self.ema_decay
        require(
            decay is None or 0 < decay < 1, "phase.ema_decay", decay, "between 0 and 1, or None"
        )
        if self.clip_grad is not None:
            require(self.clip_grad > 0, "phase.clip_grad", self.clip_grad, "above 0, or None")
        states = ("migrate", "rebuild")
        require(
            self.optimizer_state in states,
            "phase.optimizer_state",
            self.optimizer_state,
            ", ".join(states),
        )
