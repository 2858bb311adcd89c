"""Base class for compression methods, and their optional capabilities.

`search/`, `training/`, `io/` and `study/` use only this interface. A method is bound to one model
and changes it in place:

    dense --commit_--> committed --commit_--> ...

After `commit_` the model consists of ordinary modules: no hooks, no class swaps, the same forward
signature, exportable. What only some methods can do is found by capability, with `isinstance`,
never by a method's name:

    Searchable              has a supernet, whose architecture parameters a search trains
    SupportsCalibration     looks at images before it is searched or committed
    SupportsOptionLosses    estimates the loss of each option of each site without a search
    SupportsTrainingLoss    adds a term to the training loss in every phase
    SupportsMeasuredTimes   counts a budget in time, by a table of what was measured
    SupportsMeasuringTimes  makes such a table
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from adacomcat.budget import Budget, Unit
from adacomcat.checks import require
from adacomcat.config import BudgetConfig
from adacomcat.plan import Decision, Plan
from adacomcat.timing import Times

Carry = Callable[[Mapping[str, Tensor], int], dict[str, Tensor]]
"""(state by old parameter, power) -> state by new parameter; see `Move`."""


@dataclass(frozen=True)
class Move:
    """Migration of optimizer state for one module whose parameters `commit_` replaced.

    A first moment is linear in the gradient, so it transforms as the gradient does (`power` 1). A
    second moment transforms with the squared coefficients (`power` 2), exact where the mixed
    entries are uncorrelated, which is what a diagonal second moment assumes.
    """

    old: Mapping[str, nn.Parameter]
    new: Mapping[str, nn.Parameter]
    carry: Carry


@dataclass(frozen=True)
class ParameterMap:
    """Changes of parameters by `commit_`; those that no move names are untouched."""

    moves: tuple[Move, ...] = ()
    rearranged: bool = False
    """Whether modules were replaced that hold the parameters there were."""

    @property
    def changed(self) -> bool:
        """Whether the model is another than before."""
        return self.rearranged or bool(self.moves)


@dataclass(frozen=True)
class Option:
    """One choice of a site.

    Attributes:
        decision: the plan's entry for the site when this option is chosen.
        cost: of the site then, in the requested unit; None where it depends on what is decided for
            other sites, so that only a whole plan has a cost.
    """

    decision: Decision
    cost: float | None


class Site(Protocol):
    """One place of a model that a plan decides on."""

    @property
    def name(self) -> str:
        """Key of the site in a plan."""

    def options(self, unit: Unit) -> Sequence[Option]:
        """Possible decisions, cheapest first unless measured otherwise."""

    def distance(self, a: Decision, b: Decision) -> float:
        """Distance of two decisions, from 0 (only if equal) to 1."""


@dataclass(frozen=True)
class Proposal:
    """A plan out of a search, its cost, and the logits or losses that it was read from."""

    plan: Plan
    cost: float
    logits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Site -> decision (as text) -> logit."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Site -> estimated loss of its decision, where the strategy estimates losses."""


class Method(ABC):
    """A compression method bound to one model, which it changes in place."""

    name: str
    units: Mapping[Unit, str]
    """Units of the budgets it can meet -> what a number of that unit is a number of."""
    keeps_tokens: bool = True
    """Whether the blocks of a committed model give out the tokens that those of the dense one do,
    so that the two can be aligned."""
    model: nn.Module
    sites: Sequence[Site]
    """Sites that a plan decides on, with their options."""
    plan: Plan | None
    """The plan in force; None while the model is dense."""

    @abstractmethod
    def commit_(self, plan: Plan) -> ParameterMap:
        """Give the model the plan's shape, out of plain modules, and leave the searchable state.

        What the plan does not change keeps its parameters, bit for bit and as the same objects.

        Raises:
            ValueError: the plan has other sites, or decisions that a site does not support.
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
    def check_adoptable(self, model: nn.Module, plan: Plan) -> None:
        """Raise unless `adopt_` would accept a model and a plan.

        Raises:
            ValueError: names the place that differs.
        """

    @abstractmethod
    def restore_(self) -> None:
        """Undo what prepared a search: the very modules that it replaced come back."""

    @abstractmethod
    def check(self, plan: Plan) -> None:
        """Raise unless `commit_` would accept a plan now.

        Raises:
            ValueError: names the site and what it allows.
        """

    @abstractmethod
    def default_plan(self, budget: Budget) -> Plan:
        """The plan that needs no search, at the same budget: the control of every study.

        Raises:
            ValueError: no plan meets the budget; names the smallest reachable cost.
        """

    def options(self, unit: Unit) -> dict[str, Sequence[Option]]:
        """Site -> what a search may decide for it now; the plan in force may rule some out."""
        return {site.name: site.options(unit) for site in self.sites}

    def distance(self, a: Plan, b: Plan) -> float:
        """Distance of two plans, as their sites define it; see `Plan.distance`."""
        return a.distance(b, {site.name: site.distance for site in self.sites})

    @abstractmethod
    def plan_cost(self, plan: Plan, unit: Unit) -> float:
        """Cost of the searched sites under a plan."""

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
        if config.unit == "latency" and isinstance(self, SupportsMeasuredTimes):
            self.use_times_(config.latency)
        searched, fixed = self.dense_cost(config.unit)
        dense = searched + fixed
        if config.absolute is None:
            assert config.reduction is not None
            total, field_name, got = (1 - config.reduction) * dense, "reduction", config.reduction
        else:
            total, field_name, got = config.absolute, "absolute", config.absolute
        unit = self.units[config.unit]
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


class Searchable(Method):
    """A method with a supernet: the model while every site is a mixture of its options.

        dense --prepare_--> searchable --commit_--> committed --prepare_--> searchable --> ...

    `restore_` goes back from searchable to whatever was there before `prepare_`.
    """

    @abstractmethod
    def prepare_(self) -> None:
        """Make the model searchable: from dense, or from the plan in force.

        Parameters of the model take no gradient until `commit_` or `restore_`.
        """

    @abstractmethod
    def architecture_parameters(self) -> list[nn.Parameter]:
        """Parameters that a search trains; if there are none, a search takes no step."""

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
    def named_logits(self) -> dict[str, dict[str, float]]:
        """Site -> decision (as text) -> logit."""

    @abstractmethod
    def propose(self, budget: Budget, decision: str) -> Proposal:
        """Read a plan off the architecture parameters.

        Args:
            budget: what the sites may cost.
            decision: `projected`, the most probable plan within the budget, or `argmax`.

        Raises:
            ValueError: no plan meets the budget; names the smallest reachable cost.
        """


@runtime_checkable
class SupportsCalibration(Protocol):
    """A method that makes use of images before a search or a commit."""

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Look at images (B, C, H, W); the settings may say that none is needed."""


@runtime_checkable
class SupportsOptionLosses(Protocol):
    """A method that estimates, without a search, the loss of each option."""

    def check_estimate(self, estimate: str) -> None:
        """Raise unless the settings allow an estimate, which has its strategy's name.

        Raises:
            ValueError: they do not; names the setting.
        """

    def losses_of_options(
        self, unit: Unit, estimate: str, images: Tensor | None
    ) -> Mapping[str, Sequence[tuple[Option, float]]]:
        """Site -> (option, estimated increase of the loss), on one scale for all sites.

        Leaving a site as it is in the dense model is always an option, where the plan in force
        allows it. `calibrate` comes first.

        Args:
            unit: of the options' costs.
            estimate: name of the strategy that asks.
            images: (B, C, H, W) on which to measure; None where none were kept.

        Raises:
            ValueError: the method's settings do not allow this estimate.
        """


@runtime_checkable
class SupportsTrainingLoss(Protocol):
    """A method with a term of its own in the training loss."""

    def training_loss(self) -> Tensor:
        """The term for the batch of the last forward, shape (); added in every training phase."""


@dataclass(frozen=True)
class MeasuredOption:
    """An option of a kind of sites, as it was timed.

    Attributes:
        site: the kind.
        option: in words.
        times: of the module that was timed, seconds a call.
        cost_ns: that a budget in latency counts for it, an image.
        dense_ns: the same of a dense site.
    """

    site: str
    option: str
    times: Times
    cost_ns: int
    dense_ns: int


@runtime_checkable
class SupportsMeasuringTimes(Protocol):
    """A method that can time its options on a device, for budgets in measured time."""

    def measure_times(
        self, images: Tensor, *, repeats: int, on: str
    ) -> tuple[dict[str, Any], dict[str, Times], list[MeasuredOption]]:
        """Time the dense model and the options of its sites.

        Args:
            images: (B, C, H, W) of one call, on the model's device and of its data type.
            repeats: rounds of the measurement.
            on: what the times are of, in words.

        Returns:
            The table that `use_times_` takes, seconds a call by name, and the options.
        """

    def measure_plans(
        self, plans: Mapping[str, Plan], images: Tensor, *, repeats: int
    ) -> dict[str, Times]:
        """Seconds a call of the whole model, dense as `model` and committed to each plan."""


@runtime_checkable
class SupportsMeasuredTimes(Protocol):
    """A method that can count a budget in measured time."""

    def use_times_(self, table: Mapping[str, Any]) -> None:
        """Count the unit `latency` by a table of measured times, from now on.

        Args:
            table: of `adacomcat latency`, as `BudgetConfig.latency` has it.

        Raises:
            ValueError: the table is of another model or of other settings (what is missing is
                named).
        """
