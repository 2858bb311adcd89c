"""Base class for search strategies.

A schedule says when a search happens, a strategy how; any pair works. A strategy is a class in a
module of this package, or a subclass defined elsewhere, found by its `name` (`search.strategy`).
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

import adacomcat.search
from adacomcat.budget import Budget
from adacomcat.checks import require_known
from adacomcat.config import SearchConfig
from adacomcat.methods.base import Method, Proposal, SupportsCalibration


@dataclass(frozen=True)
class SearchReport:
    """Report of one search; losses and accuracy are means over its images.

    Attributes:
        index: how many searches came before.
        proposal: the plan found, and what it costs.
        temperature, loss, accuracy: None where nothing was trained.
        expected_cost: of the searched sites, in the last step's mixture; None likewise.
        images: that it saw; steps: that it took, fewer than there were batches if it ended early.
    """

    index: int
    epoch: int
    proposal: Proposal
    temperature: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    expected_cost: float | None = None
    images: int = 0
    steps: int = 0


class Strategy(ABC):
    """One way to find plans within a budget, across all searches of a trial."""

    name: ClassVar[str]
    needs_images: ClassVar[bool] = True
    """Whether a search looks at images itself; otherwise only a method's calibration may."""
    uses_labels: ClassVar[bool] = False
    """Whether a search trains on labels of the images."""

    def __init__(
        self,
        method: Method,
        config: SearchConfig,
        budget: Budget,
        *,
        epochs: int,
        seed: int,
        due_epochs: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            method: bound to the model.
            config: the recipe of a search.
            budget: what the searched sites may cost.
            epochs: length of the search phase, for annealing.
            seed: of the trial.
            due_epochs: at which a search may happen, for annealing of the learning rate; None: all
                but the first.

        Raises:
            ValueError: a method that lacks what the strategy needs; says what that is.
        """
        self.method, self.config, self.budget = method, config, budget
        self.epochs, self.seed = epochs, seed
        self.due_epochs = range(1, epochs) if due_epochs is None else due_epochs
        self.searches = 0
        self.check_method()

    def check_method(self) -> None:
        """Raise unless the method has what the strategy needs; by default any method will do.

        Raises:
            ValueError: names the strategy or the method's setting.
        """
        assert isinstance(self.method, Method)

    def prepare_(self, images: Iterable[Tensor]) -> None:
        """Make the model ready for the next search: calibrate, if the method needs it.

        Args:
            images: (B, C, H, W) each; this worker's share of what a search looks at.
        """
        if isinstance(self.method, SupportsCalibration):
            self.method.calibrate(images)

    @abstractmethod
    def search(
        self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, steps: int | None = None
    ) -> SearchReport:
        """Find a plan; the caller commits the model to it.

        Args:
            batches: this worker's share of each step: images (B, C, H, W) and labels (B,).
            epoch: of the search phase.
            steps: how many batches there are.

        Raises:
            NonFiniteLoss: names the step.
            ValueError: no plan meets the budget.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that later searches depend on, beside the method's own state."""
        return {"searches": self.searches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a strategy of the same settings."""
        self.searches = state["searches"]


def strategies() -> dict[str, type[Strategy]]:
    """Name -> every strategy there is."""
    package = adacomcat.search
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    found: dict[str, type[Strategy]] = {}
    waiting = Strategy.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if "name" in vars(kind):
            found[kind.name] = kind
    return found


def find_strategy(name: str) -> type[Strategy]:
    """The strategy of a name.

    Raises:
        ValueError: there is none (the nearest valid name is given).
    """
    known = strategies()
    require_known(name, known, "search.strategy")
    return known[name]
