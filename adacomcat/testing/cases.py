"""Common part of the conformance tests for methods: configurations, models, budgets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adacomcat.budget import Budget, Unit
from adacomcat.config import BudgetConfig
from adacomcat.methods.base import (
    Method,
    Searchable,
    SupportsCalibration,
    SupportsMeasuredTimes,
)
from adacomcat.methods.registry import build_method
from adacomcat.plan import Decision, Plan
from adacomcat.testing.models import tiny_images, tiny_vit


class MethodCase:
    """Configurations, models and budgets of the conformance tests."""

    configs: ClassVar[Sequence[Mapping[str, Any]]]
    """Configuration for `build_method`."""
    models: ClassVar[Mapping[str, Callable[[], nn.Module]]] = {"vit": tiny_vit}
    """Name -> a function that builds a dense model in evaluation mode, the same at each call."""
    images: ClassVar[Tensor] = tiny_images()
    reduction: ClassVar[float] = 0.4
    """A reduction in each unit that every configuration reaches on every model."""
    units: ClassVar[Sequence[Unit]] = ("params", "macs")
    wrong: ClassVar[Sequence[Decision]] = (0, -3, 2.5, "4", True)
    """Decisions that the first site cannot have."""
    draws: ClassVar[bool] = True
    """Whether a search samples at random before each forward."""
    latency: ClassVar[Mapping[str, Any]] = {}
    """A table of times for all models and configurations, where `latency` is among the units."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrize each rule by the configurations, models and units that it takes."""
        if "config" in metafunc.fixturenames:
            metafunc.parametrize("config", self.configs, ids=str)
        if "build" in metafunc.fixturenames:
            metafunc.parametrize("build", self.models.values(), ids=self.models.keys())
        if "unit" in metafunc.fixturenames:
            metafunc.parametrize("unit", self.units)
        if "start" in metafunc.fixturenames:
            metafunc.parametrize("start", ("dense", "committed"))

    def bound(self, build: Callable[[], nn.Module], config: Mapping[str, Any]) -> Searchable:
        """A method on a fresh dense model."""
        method = build_method(build(), config)
        assert isinstance(method, Searchable)
        return method

    def method(
        self, build: Callable[[], nn.Module], config: Mapping[str, Any], start: str = "dense"
    ) -> Searchable:
        """A method on a fresh model, dense or committed to a plan of random logits."""
        method = self.bound(build, config)
        calibrate(method, self.images)
        if isinstance(method, SupportsMeasuredTimes) and "latency" in self.units:
            method.use_times_(self.latency)
        if start == "committed":
            perturb_(method.architecture_parameters(), 0, 2.0)
            method.commit_(self.plan(method))
        return method

    def plan(self, method: Searchable, unit: Unit | None = None) -> Plan:
        """The plan that the architecture parameters propose, in the first of the units."""
        return method.propose(self.budget(method, unit or self.units[0]), "projected").plan

    def budget(self, method: Method, unit: Unit, absolute: float | None = None) -> Budget:
        """The budget at a total cost, or at the class's reduction."""
        reduction = self.reduction if absolute is None else None
        return method.budget(
            BudgetConfig(unit=unit, reduction=reduction, absolute=absolute, latency=self.latency)
        )


def calibrate(method: Method, images: Tensor) -> None:
    if isinstance(method, SupportsCalibration):
        method.calibrate([images])


def search_step(method: Searchable, images: Tensor) -> None:
    """One backward pass of the loss that a search minimizes, in evaluation mode."""
    training = method.model.training
    method.model.eval()
    method.sample_(1.0, torch.Generator().manual_seed(0))
    outputs = method.model(images)
    labels = torch.arange(len(images)) % outputs.shape[-1]
    loss = F.cross_entropy(outputs, labels) + method.auxiliary_loss()
    if method.architecture_parameters():
        loss.backward()
    method.model.train(training)


@torch.no_grad()
def perturb_(parameters: Sequence[nn.Parameter], seed: int, size: float) -> None:
    source = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(size * torch.randn(parameter.shape, generator=source))
