"""A whole trial, and where its dense model comes from."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adacomcat.checks import require
from adacomcat.config.budget import BudgetConfig
from adacomcat.config.data import DataConfig
from adacomcat.config.model import ModelConfig
from adacomcat.config.phase import DistillConfig, PhaseConfig
from adacomcat.config.search import SearchConfig


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
        require(not self.recipe.frozen, "dense.recipe.frozen", True, "false")
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
        idle = self.finetune.frozen and self.finetune.epochs > 0
        require(not idle, "finetune.frozen", True, "false: finetuning trains the weights")

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON-able data; `from_mapping` reads it back."""
        return dataclasses.asdict(self)
