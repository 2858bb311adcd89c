"""Configuration of a whole trial, and the source of its dense model."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, model_validator

from adacomcat.checks import require
from adacomcat.config.base import Config
from adacomcat.config.budget import BudgetConfig
from adacomcat.config.data import DataConfig
from adacomcat.config.model import ModelConfig
from adacomcat.config.phase import DistillConfig, PhaseConfig
from adacomcat.config.runtime import RuntimeConfig
from adacomcat.config.search import SearchConfig


class DenseConfig(Config):
    """Source of the dense model's weights: a recipe that trains them once for all trials, starting
    from random or given weights."""

    place: ClassVar[str] = "dense"

    weights: str | None = None
    """A file (safetensors, or a `.pth` as DeiT's), a URL of one, or `timm` for the tag in
    `model.name`; None: random weights, which the recipe has to train."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file of weights; required for a URL."""
    new_head: bool = False
    """Give the classifier random weights where the file's is for other classes."""
    recipe: PhaseConfig = PhaseConfig(distill=DistillConfig(kind="none", align_blocks=()))
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        require(not self.recipe.frozen, "recipe.frozen", True, "false")
        digest = self.sha256
        given = digest is None or self.weights is not None
        require(given, "sha256", digest, "None without weights")
        is_url = self.weights is not None and "://" in self.weights
        allowed = f"the SHA-256 of the file at {self.weights}"
        require(not is_url or digest is not None, "sha256", None, allowed)
        return self


class TrialConfig(Config):
    """Everything that determines a trial."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    dense: DenseConfig = DenseConfig()
    method: Mapping[str, Any] = {"name": "lowrank"}
    """`name` of a registered method and that method's own settings."""
    budget: BudgetConfig = BudgetConfig()
    search: SearchConfig = SearchConfig()
    schedule: Mapping[str, Any] = {"kind": "adaptive"}
    """`kind` of a schedule and its coefficients."""
    search_phase: PhaseConfig = PhaseConfig()
    finetune: PhaseConfig = PhaseConfig(epochs=10)
    seed: NonNegativeInt = 0
    runtime: RuntimeConfig = RuntimeConfig()
    """The only part that determines nothing of the trial's numbers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        idle = self.finetune.frozen and self.finetune.epochs > 0
        require(not idle, "finetune.frozen", True, "false: finetuning trains the weights")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that determine the trial, as JSON-able data."""
        return identity(self.to_json())


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine a trial, of a `TrialConfig` as JSON: not `runtime`, `data.root`.

    Which images lie below the root is what the hashes of the splits tell.
    """
    kept = {key: value for key, value in config.items() if key != "runtime"}
    if "data" in kept:
        kept["data"] = {key: value for key, value in kept["data"].items() if key != "root"}
    return kept
