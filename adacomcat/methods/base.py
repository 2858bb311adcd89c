"""Base class for compression methods.

`search/`, `training/` and `study/` know only what stands here. A method is bound to one model and
changes it in place. Its life is

    dense --prepare_--> searchable --commit_--> committed --prepare_--> searchable --commit_--> ...

and `restore_` goes back from searchable to whatever was there before `prepare_`. After `commit_`
the model is made of ordinary modules: no hooks, no class swaps, the same forward signature,
exportable.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adacomcat.budget import Budget
from adacomcat.checks import require
from adacomcat.config import COUNTED_IN, BudgetConfig, Unit
from adacomcat.plan import Plan

Carry = Callable[[Mapping[str, Tensor], int], dict[str, Tensor]]
"""(state by old parameter, power) -> state by new parameter; see `Move`."""


@dataclass(frozen=True)
class Move:
    """How the optimizer's state follows one module whose parameters `commit_` replaced.

    A first moment is linear in the gradient, so it transforms as the gradient does (`power` 1). A
    second moment transforms with the squared coefficients (`power` 2), exact where the mixed
    entries are uncorrelated, which is what a diagonal second moment assumes.
    """

    old: Mapping[str, nn.Parameter]
    new: Mapping[str, nn.Parameter]
    carry: Carry


@dataclass(frozen=True)
class ParameterMap:
    """What `commit_` did to the parameters; those that no move names are untouched."""

    moves: tuple[Move, ...] = ()
    rearranged: bool = False
    """Whether modules were replaced that hold the parameters there were."""

    @property
    def changed(self) -> bool:
        """Whether the model is another than before."""
        return self.rearranged or bool(self.moves)


@dataclass(frozen=True)
class Proposal:
    """A plan out of a search, what it costs, and the logits it was read from."""

    plan: Plan
    cost: float
    logits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Site -> decision (as text) -> logit."""


class CompressionMethod(ABC):
    """A method bound to one model, which it changes in place."""

    name: ClassVar[str]
    units: ClassVar[tuple[Unit, ...]]
    """Of the budgets that it can meet."""
    keeps_tokens: ClassVar[bool] = True
    """Whether the blocks of a committed model give out the tokens that those of the dense one do,
    so that the two can be aligned."""
    model: nn.Module
    plan: Plan | None
    """The plan in force; None while the model is dense."""

    @abstractmethod
    def prepare_(self) -> None:
        """Make the model searchable: from dense, or from the plan in force.

        Parameters of the model take no gradient until `commit_` or `restore_`.
        """

    @abstractmethod
    def commit_(self, plan: Plan) -> ParameterMap:
        """Give the model the plan's shape, out of plain modules, and leave the searchable state.

        What the plan does not change keeps its parameters, bit for bit and as the same objects.

        Raises:
            ValueError: the plan is not of this model's sites, or asks what a site cannot be.
        """

    @abstractmethod
    def adopt_(self, model: nn.Module, plan: Plan) -> None:
        """Make a dense model a copy of a committed one: its modules' shapes, and its weights.

        Searching can go on from there. `model` stays as it is and shares no memory with this one.

        Args:
            model: committed, of the same dense model.
            plan: what it was committed to.

        Raises:
            ValueError: a model that is not of this dense one, or not of this plan (the place is
                named); nothing has changed then.
        """

    @abstractmethod
    def restore_(self) -> None:
        """Undo `prepare_`: the very modules that it replaced come back."""

    @abstractmethod
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Look at images (B, C, H, W) before the next `prepare_`; may do nothing."""

    @abstractmethod
    def architecture_parameters(self) -> list[nn.Parameter]:
        """What a search trains; may be empty."""

    @abstractmethod
    def sample_(self, temperature: float, generator: torch.Generator | None) -> None:
        """Draw the mixture that the next forward uses; without a generator, its noiseless mean."""

    @abstractmethod
    def expected_cost(self, unit: Unit) -> Tensor:
        """Cost of the searched sites under the drawn mixture, differentiable, shape ()."""

    @abstractmethod
    def auxiliary_loss(self) -> Tensor:
        """A term that the method adds to the loss of a search, shape ()."""

    @abstractmethod
    def propose(self, budget: Budget, decision: str) -> Proposal:
        """Read a plan off the architecture parameters.

        Args:
            budget: what the sites may cost.
            decision: `projected`, the most probable plan within the budget, or `argmax`.

        Raises:
            ValueError: no plan meets the budget; names the smallest reachable cost.
        """

    @abstractmethod
    def default_plan(self, budget: Budget) -> Plan:
        """The plan that needs no search, at the same budget: the control of every study.

        Raises:
            ValueError: no plan meets the budget; names the smallest reachable cost.
        """

    @abstractmethod
    def plan_cost(self, plan: Plan, unit: Unit) -> float:
        """What the searched sites cost under a plan."""

    @abstractmethod
    def dense_cost(self, unit: Unit) -> tuple[float, float]:
        """(cost of the searched sites, all other counted cost) of the dense model."""

    @abstractmethod
    def smallest_cost(self, unit: Unit) -> float:
        """The least that the searched sites can cost under any plan a search may propose."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plan, architecture parameters and what else a resume needs; not the model's weights."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give a freshly bound dense model the saved plan's shape; its weights are loaded after."""

    def use_times_(self, table: Mapping[str, Any]) -> None:
        """Count the unit `latency` by a table of measured times, from now on.

        Only a method with that unit has it.

        Args:
            table: of `adacomcat latency`, as `BudgetConfig.latency` has it.

        Raises:
            ValueError: the table is of another model or of other settings (what is missing is
                named).
        """
        raise NotImplementedError

    def budget(self, config: BudgetConfig) -> Budget:
        """Resolve a budget on this model.

        The searched sites may cost `(1 - reduction) * dense - fixed`, where dense is all that is
        counted and fixed what is counted and not searched (for ComCAT the patch embedding: DeiT-S
        at 0.5 has 10 661 376 parameters). A table of times that comes with it is in use from then
        on.

        Raises:
            ValueError: no plan meets it (names the smallest reachable cost), it is more than the
                dense model costs, the method has no such unit, or a table of times does not fit.
        """
        allowed = f"{', '.join(self.units)} with method.name {self.name!r}"
        require(config.unit in self.units, "budget.unit", config.unit, allowed)
        if config.unit == "latency":
            self.use_times_(config.latency)
        searched, fixed = self.dense_cost(config.unit)
        dense = searched + fixed
        if config.absolute is None:
            assert config.reduction is not None
            total, field_name, got = (1 - config.reduction) * dense, "reduction", config.reduction
        else:
            total, field_name, got = config.absolute, "absolute", config.absolute
        unit = COUNTED_IN[config.unit]
        allowed = f"at most {dense:,.0f} {unit}, what the dense model costs"
        require(total <= dense, f"budget.{field_name}", got, allowed)
        smallest = self.smallest_cost(config.unit) + fixed
        require(
            total >= smallest,
            f"budget.{field_name}",
            got,
            f"a total of at least {smallest:,.0f} {unit}, the smallest "
            f"reachable cost (reduction at most {1 - smallest / dense:.4f} of {dense:,.0f}); this "
            f"is {total:,.0f}",
        )
        return Budget(config.unit, total - fixed, fixed, dense)
