"""Configuration of a training phase: optimizer, learning rate, distillation."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from adacomcat.checks import require
from adacomcat.config.base import Config

Rate = Annotated[float, Field(ge=0, le=1000)]
"""Learning rate; a larger one is a mistake, and would overflow once scaled."""
BatchSize = Annotated[int, Field(ge=1, le=10_000_000)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]


class DistillConfig(Config):
    """Settings of distillation from the dense model."""

    place: ClassVar[str] = "distill"

    kind: Literal["none", "soft", "hard"] = "hard"
    """`hard`: cross-entropy with the teacher's label; `soft`: KL at a temperature (DeiT)."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the loss that distillation takes from the labels."""
    temperature: PositiveFloat = 3.0
    """Temperature of `soft`."""
    align_blocks: tuple[int, ...] = (0, 1, -2, -1)
    """Blocks whose outputs are pulled to the teacher's by mean squared error; () for none."""
    align_weight: NonNegativeFloat = 0.5
    align_schedule: Literal["cosine", "compounding", "constant"] = "cosine"
    """`cosine`: w cos(pi t / 2T); `compounding`: the product of those factors (reference)."""
    align_floor: NonNegativeFloat = 0.01
    """The alignment weight never falls below this."""


class PhaseConfig(Config):
    """The recipe of one phase: dense training, search phase or finetune phase."""

    place: ClassVar[str] = "phase"

    epochs: Epochs = 30
    frozen: bool = False
    """Whether the epochs of a search phase only search and leave the weights unchanged."""
    batch_size: BatchSize = 64
    """Images of one step, over all workers."""
    lr: float = Field(default=5e-4, gt=0, le=1000)
    """Learning rate at a batch of `lr_batch_size` images; scaled linearly to other batch sizes,
    before the optimizer is built."""
    lr_batch_size: BatchSize = 512
    """Reference batch size of the linear scaling rule (DeiT)."""
    min_lr: Rate = 1e-5
    warmup_epochs: Epochs = 0
    weight_decay: NonNegativeFloat = 0.05
    clip_grad: PositiveFloat | None = None
    """Largest norm of the gradient; None: not clipped."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    accumulate: int = Field(default=1, ge=1)
    """Number of parts in which a batch passes through the model (gradient accumulation)."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a moving average of the weights, which is evaluated and kept at the end of the
    phase; None: no average."""
    compile: bool = False
    """Train through `torch.compile`."""
    distill: DistillConfig = DistillConfig()
    bf16: bool = False
    """Autocast to bfloat16 where the device has it."""
    optimizer_state: Literal["migrate", "rebuild"] = "migrate"
    """Treatment of the optimizer's state when ranks change; the reference rebuilds it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        whole = self.batch_size % self.accumulate == 0
        allowed = f"a divisor of batch_size ({self.batch_size})"
        require(whole, "accumulate", self.accumulate, allowed)
        return self
