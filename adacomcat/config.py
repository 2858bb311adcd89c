"""What determines a trial, as typed and validated data.

A `TrialConfig` is the whole of it: two trials with equal configurations on equal versions of the
software give the same trace. Settings that belong to one method or one kind of schedule are plain
mappings here (`method`, `schedule`), checked by the method or schedule that they name, so that a
new method does not edit this file. Mappings are JSON-able; so is `dataclasses.asdict` of every
class.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_type_hints

from adacomcat.checks import require, require_known

Unit = Literal["params", "macs", "latency"]
COUNTED_IN: Mapping[Unit, str] = MappingProxyType(
    {"params": "params", "macs": "macs", "latency": "ns an image"}
)
"""What a number of a unit is a number of."""
Config = TypeVar("Config")


def from_mapping(cls: type[Config], values: Mapping[str, Any], path: str = "") -> Config:
    """Build a configuration class from nested mappings, as read from JSON or YAML.

    Args:
        cls: one of the dataclasses of this module, or a method's own.
        values: field -> value; a field that is itself a configuration takes a mapping.
        path: dotted name of what is built, for messages.

    Raises:
        ValueError: an unknown key (the nearest valid one is named) or a refused value.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        require_known(key, names, where)
        nested = hints[key]
        if dataclasses.is_dataclass(nested) and isinstance(value, Mapping):
            value = from_mapping(nested, value, where)  # type: ignore[arg-type]
        arguments[key] = value
    return cls(**arguments)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set and how it is cut into train, search, val and test."""

    name: str = "digits"
    """`digits`, `fashion_mnist`, `synthetic`, `imagefolder`, `torchvision/NAME` or `timm/NAME`."""
    root: str | None = None
    """Folder of the data; None: where the data set looks by itself."""
    search_from: Literal["train", "test"] = "train"
    """`train`: a slice that only the rank search sees; `test`: the images that are reported on, as
    in the reference, which leaks them into the search. The slice is cut off train all the same, so
    that this changes one thing; `search_fraction` 0 leaves it in."""
    search_fraction: float = 0.15
    """Share of the training images that is kept for the rank search."""
    search_images: int | None = None
    """So many images instead of that share."""
    val_from: Literal["train", "test"] = "train"
    """Likewise for the selection of models and `val_fraction`."""
    val_fraction: float = 0.10
    """Share of the training images that is kept for the selection of models."""
    test_fraction: float = 0.25
    """Share of all images that only the report sees; unused where the set has a test split."""
    split_seed: int = 0
    """Seeds the split; the same for every trial, so that all seeds report on the same images."""
    max_images: int | None = None
    """Keep at most this many images (stratified) of each source split; None: all."""
    augment: Literal["none", "affine", "crop_flip", "resized_crop"] = "none"
    """`affine`: small rotations, shifts, scales; `crop_flip`: padded crop and horizontal flip;
    `resized_crop`: a random part of the image, scaled bicubically, and horizontal flip."""
    auto_augment: str | None = None
    """A policy of timm, for instance `rand-m9-mstd0.5-inc1`; for images decoded from files."""
    random_erasing: float = 0.0
    """Probability that noise covers a rectangle of a training image."""
    repeats: int = 1
    """How often an epoch shows each training image it draws, each time augmented anew; the epoch
    stays as long (repeated augmentation, arXiv 1902.05509)."""
    image_size: int | None = None
    """Side in pixels; None: the data set's own."""
    mean: tuple[float, ...] | None = None
    """Subtracted from pixels in 0..1, one a channel; None: of the training images that are held in
    memory, ImageNet's for those decoded from files."""
    std: tuple[float, ...] | None = None
    """What the rest is divided by, likewise."""
    num_workers: int = 0
    """Loader processes of data read from disk; data held in memory needs none."""
    skip_unreadable: bool = False
    """Leave out images that cannot be decoded, and count them; otherwise the first one is an
    error."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this data set knows, for instance `num_classes` of `synthetic`."""

    def __post_init__(self) -> None:
        for name, origin in (
            ("search_fraction", self.search_from),
            ("val_fraction", self.val_from),
            ("test_fraction", "train"),
        ):
            value = getattr(self, name)
            if origin == "test" and value == 0:
                continue
            require(0 < value < 1, f"data.{name}", value, "a share between 0 and 1")
        total = self.search_fraction + self.val_fraction
        require(total < 1, "data.search_fraction + data.val_fraction", total, "below 1")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "0 or more")
        for name in ("max_images", "search_images"):
            value = getattr(self, name)
            require(value is None or value > 0, f"data.{name}", value, "1 or more, or None")
        for name in ("search_from", "val_from"):
            value = getattr(self, name)
            require(value in ("train", "test"), f"data.{name}", value, "train, test")
        require(
            0 <= self.random_erasing <= 1,
            "data.random_erasing", self.random_erasing, "a probability",
        )  # fmt: skip
        require(self.repeats >= 1, "data.repeats", self.repeats, "1 or more")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                listed = isinstance(value, list | tuple)
                require(listed, f"data.{name}", value, "a list with one number a channel")
                # JSON has no tuples: a configuration read back must equal the one written.
                object.__setattr__(self, name, tuple(float(part) for part in value))
        require(self.std is None or min(self.std) > 0, "data.std", self.std, "numbers above 0")

    @property
    def leakage(self) -> tuple[str, ...]:
        """What sees the images that are reported on: none of `search` and `selection`, or some."""
        uses = {"search": self.search_from, "selection": self.val_from}
        return tuple(use for use, origin in uses.items() if origin == "test")


def leakage_note(uses: Sequence[str]) -> str:
    """What a reader of an accuracy must know of `DataConfig.leakage`; empty where nothing leaks."""
    words = {"search": "the rank search", "selection": "the selection of models"}
    seen = " and ".join(words[use] for use in uses)
    return f"LEAKAGE: {seen} saw the images that are reported on" if uses else ""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A timm vision transformer."""

    name: str = "vit_tiny_patch16_224"
    """A name of `timm.list_models()`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `timm.create_model`, for instance `embed_dim`, `depth`, `num_heads`."""


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The target of a search: give `reduction` or `absolute`, not both."""

    unit: Unit = "params"
    """`params`: weights without biases, as ComCAT counts; `macs`: multiply-accumulates an image;
    `latency`: nanoseconds an image, from the table of `latency`."""
    reduction: float | None = 0.5
    """Share of the dense model's cost to remove."""
    absolute: float | None = None
    """The cost to reach, in `unit`, counted as `adacomcat.cost` counts it."""
    latency: Mapping[str, Any] = field(default_factory=dict)
    """Of the unit `latency`: what was measured, as `python -m adacomcat latency` writes it; the
    method checks it."""

    def __post_init__(self) -> None:
        require(self.unit in COUNTED_IN, "budget.unit", self.unit, ", ".join(COUNTED_IN))
        require(
            self.unit != "latency" or len(self.latency) > 0, "budget.latency", dict(self.latency),
            "a table of measured times with budget.unit latency: make one with `python -m adacomcat"
            " latency --model M --output FILE`, and give it with --latency-table FILE",
        )  # fmt: skip
        both = (self.reduction, self.absolute)
        require(
            (self.reduction is None) != (self.absolute is None),
            "budget.reduction, budget.absolute", both, "exactly one of the two",
        )  # fmt: skip
        if self.reduction is not None:
            require(0 < self.reduction < 1, "budget.reduction", self.reduction, "between 0 and 1")
        if self.absolute is not None:
            require(self.absolute > 0, "budget.absolute", self.absolute, "above 0")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search pass and the annealing across passes (ComCAT, arXiv 2305.17235, section 3.3)."""

    steps: int | None = None
    """Steps of one search; None: one pass over the search split. More than a pass goes round."""
    images: int | None = None
    """In place of `steps`: a pass that ends before it has seen more than so many images."""
    stable_steps: int | None = None
    """End a search once the plan that it would propose stood still for so many steps; None: no."""
    batch_size: int = 64
    """Images of one step, over all workers."""
    lr: float = 1e-2
    weight_decay: float = 5e-4
    beta: float = 1.5
    """Exponent of the budget penalty `(expected / target) ** beta`."""
    temperature_start: float = 5.0
    temperature_end: float = 0.1
    clock: Literal["per_epoch", "per_search"] = "per_epoch"
    """What the temperature follows; the reference anneals once a search."""
    noise: bool = True
    """Gumbel noise on the logits; without it the mixture is a plain softmax."""
    decision: Literal["projected", "argmax"] = "projected"
    """`projected`: the most probable plan within the budget; `argmax`: site by site (reference)."""
    bf16: bool = False
    """Autocast to bfloat16 where the device has it."""

    def __post_init__(self) -> None:
        for name in ("steps", "stable_steps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"search.{name}", value, "1 or more, or None")
        require(self.batch_size > 0, "search.batch_size", self.batch_size, "1 or more")
        if self.images is not None:
            steps, size = self.steps, self.batch_size
            require(steps is None, "search.images", self.images, f"None with search.steps {steps}")
            least = f"{size} or more, a batch of search.batch_size"
            require(self.images >= size, "search.images", self.images, least)
        require(self.lr > 0, "search.lr", self.lr, "above 0")
        require(self.weight_decay >= 0, "search.weight_decay", self.weight_decay, "0 or more")
        require(self.beta >= 0, "search.beta", self.beta, "0 or more")
        for name in ("temperature_start", "temperature_end"):
            require(getattr(self, name) > 0, f"search.{name}", getattr(self, name), "above 0")
        require(
            self.clock in ("per_epoch", "per_search"),
            "search.clock", self.clock, "per_epoch, per_search",
        )  # fmt: skip
        require(
            self.decision in ("projected", "argmax"),
            "search.decision", self.decision, "projected, argmax",
        )  # fmt: skip

    def most_steps(self, batches: int) -> int:
        """Steps of one search that is not ended early, where a pass has so many batches."""
        if self.images is not None:
            return min(self.images // self.batch_size, batches)
        return self.steps or batches


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
    cache: str | None = None
    """Folder of the teacher's logits, for a recipe that draws nothing of an image and aligns
    nothing; if relative, in that of the dense models. None: the teacher runs at each step."""

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
            "distill.align_schedule", self.align_schedule, ", ".join(schedules),
        )  # fmt: skip
        # JSON has no tuples: a configuration read back must equal the one written.
        object.__setattr__(self, "align_blocks", tuple(self.align_blocks))


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """The recipe of one phase: dense training, search phase or finetune phase."""

    epochs: int = 30
    batch_size: int = 64
    """Images of one step, over all workers."""
    lr: float = 5e-4
    """At a batch of `lr_batch_size` images; scaled linearly, before the optimiser is built."""
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
            self.batch_size % self.accumulate == 0, "phase.accumulate", self.accumulate,
            f"a divisor of phase.batch_size ({self.batch_size})",
        )  # fmt: skip
        decay = self.ema_decay
        require(
            decay is None or 0 < decay < 1, "phase.ema_decay", decay, "between 0 and 1, or None"
        )
        if self.clip_grad is not None:
            require(self.clip_grad > 0, "phase.clip_grad", self.clip_grad, "above 0, or None")
        states = ("migrate", "rebuild")
        require(
            self.optimizer_state in states,
            "phase.optimizer_state", self.optimizer_state, ", ".join(states),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """Where the dense model's weights come from: a recipe trains them, once for all trials, from
    random ones or from those that are given."""

    weights: str | None = None
    """A file (safetensors, or a `.pth` as DeiT's), a URL of one, or `timm` for the tag in
    `model.name`; None: random weights, which the recipe has to train."""
    sha256: str | None = None
    """Of the file of weights; a URL needs one."""
    new_head: bool = False
    """Give the classifier random weights where the file's is for other classes."""
    recipe: PhaseConfig = field(
        default_factory=lambda: PhaseConfig(distill=DistillConfig(kind="none", align_blocks=()))
    )
    seed: int = 0

    def __post_init__(self) -> None:
        digest = self.sha256
        sound = digest is None or re.fullmatch(r"[0-9a-f]{64}", digest) is not None
        require(sound, "dense.sha256", digest, "64 hexadecimal digits in lower case, or None")
        given = digest is None or self.weights is not None
        require(given, "dense.sha256", digest, "None without dense.weights")
        is_url = self.weights is not None and "://" in self.weights
        allowed = f"the SHA-256 of the file at {self.weights}"
        require(not is_url or digest is not None, "dense.sha256", None, allowed)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that determines a trial."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    dense: DenseConfig = field(default_factory=DenseConfig)
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "lowrank"})
    """`name` of a registered method and that method's own settings."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"kind": "adaptive"})
    """`kind` of a schedule and its coefficients."""
    search_phase: PhaseConfig = field(default_factory=PhaseConfig)
    finetune: PhaseConfig = field(default_factory=lambda: PhaseConfig(epochs=10))
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON-able data; `from_mapping` reads it back."""
        return dataclasses.asdict(self)
