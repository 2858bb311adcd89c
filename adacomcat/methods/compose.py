"""Several compression methods on one model, under one budget.

Every part has sites of its own. What one part costs may depend on the others: a rank is paid once
per token, so the MACs of ranks and token counts are those of the blocks at both together, and not a
sum over sites. Such a part (`CountsOnBlocks`) comes last, after parts that change what the blocks
cost per token (`ChangesBlocks`). Without one, the costs of the parts add up.

Ours: no paper combines the methods that are here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from adacomcat.budget import Budget, Unit
from adacomcat.checks import require
from adacomcat.config import BudgetConfig
from adacomcat.cost import BlockMacs, Number
from adacomcat.methods.base import (
    Method,
    Option,
    ParameterMap,
    Proposal,
    Searchable,
    SupportsCalibration,
    SupportsMeasuredTimes,
    SupportsTrainingLoss,
)
from adacomcat.methods.config import ComposeConfig
from adacomcat.plan import Decision, Plan

Decisions = Mapping[str, Decision]
TIGHTER = 1.05
"""Parts before the last save so many times more, until the last one can save the rest."""


@runtime_checkable
class ChangesBlocks(Protocol):
    """A method that changes the cost of a model's blocks at any number of tokens."""

    def block_macs(self, decisions: Decisions | None) -> list[BlockMacs]:
        """MACs of each block at some decisions; None: expected under the drawn mixture."""

    def macs_beside_blocks(self, decisions: Decisions | None) -> Number:
        """MACs of the method's sites outside the blocks, likewise."""


@runtime_checkable
class CountsOnBlocks(Protocol):
    """A method whose costs depend on blocks that other methods have changed."""

    def counting(self, blocks: Sequence[BlockMacs]) -> Any:
        """A context in which all costs of the method are counted with blocks of these costs."""

    def macs_at(self, decisions: Decisions) -> Number:
        """MACs of all blocks at some decisions; differentiable where the blocks' costs are."""


def compose(parts: Sequence[Method], config: ComposeConfig | None = None) -> "Composed":
    """One method of several, which are bound to the same dense model.

    Args:
        parts: in order; their sites are disjoint.
        config: how they share searches and the budget.

    Raises:
        ValueError: fewer than two parts, parts of different models, a site that two parts have,
            parts without a common unit, or a part that has to be the last one.
    """
    searchable = all(isinstance(part, Searchable) for part in parts)
    kind = SearchableComposed if searchable else Composed
    return kind(parts, config or ComposeConfig())


class Composed(Method):
    """Methods on one model, one after the other; see `compose`. A plan has the decisions of all."""

    def __init__(self, parts: Sequence[Method], config: ComposeConfig) -> None:
        """Bind; see `compose` for arguments and errors."""
        self.parts, self.config = tuple(parts), config
        self.name = "+".join(part.name for part in parts)
        require(len(parts) > 1, "method.name", self.name, "two methods or more")
        same = all(part.model is parts[0].model for part in parts)
        require(same, "method.name", self.name, "methods that are bound to one model")
        self.model: nn.Module = parts[0].model
        self.sites = [site for part in parts for site in part.sites]
        names = [site.name for site in self.sites]
        shared = sorted({name for name in names if names.count(name) > 1})
        require(not shared, "method.name", self.name, f"parts without common sites ({shared[:5]})")
        self.units = MappingProxyType(
            {u: words for u, words in parts[0].units.items() if all(u in p.units for p in parts)}
        )
        require(bool(self.units), "method.name", self.name, "parts with a common unit of budgets")
        self.keeps_tokens = all(part.keeps_tokens for part in parts)
        self.plan: Plan | None = None
        self._heads, self._last = self.parts[:-1], self.parts[-1]
        for part in self._heads:
            allowed = f"{part.name} last: its costs depend on those of the other parts"
            require(not isinstance(part, CountsOnBlocks), "method.name", self.name, allowed)
            fits = isinstance(part, ChangesBlocks) or not isinstance(self._last, CountsOnBlocks)
            allowed = f"no {part.name} with {self._last.name}, which must know its cost by block"
            require(fits, "method.name", self.name, allowed)
        self._turn = 0
        self._meanwhile: Decisions = {}

    def budget(self, config: BudgetConfig) -> Budget:
        found = super().budget(config)
        if self.config.order == "in_turn":
            # A search of one part need not save what the later ones will.
            self._meanwhile = self.default_plan(found).decisions
        return found

    # Dense to committed, and back.

    def restore_(self) -> None:
        for part in reversed(self.parts):
            part.restore_()

    def check(self, plan: Plan) -> None:
        for part, own in zip(self.parts, self.plans(plan), strict=True):
            part.check(own)

    def commit_(self, plan: Plan) -> ParameterMap:
        # All are right, or nothing changes.
        self.check(plan)
        pairs = list(zip(self.parts, self.plans(plan), strict=True))
        changes = [part.commit_(own) for part, own in reversed(pairs)]
        self.plan = plan
        self._turn = min(self._turn + 1, len(self.parts) - 1)
        moves = tuple(move for found in changes for move in found.moves)
        return ParameterMap(moves, rearranged=any(found.rearranged for found in changes))

    def check_adoptable(self, model: nn.Module, plan: Plan) -> None:
        for part, own in zip(self.parts, self.plans(plan), strict=True):
            part.check_adoptable(model, own)

    def adopt_(self, model: nn.Module, plan: Plan) -> None:
        self.check_adoptable(model, plan)
        for part, own in zip(self.parts, self.plans(plan), strict=True):
            part.adopt_(model, own)
        self.plan = plan
        self._turn = len(self.parts) - 1

    def plans(self, plan: Plan) -> list[Plan]:
        """The plans of the parts of a plan.

        Raises:
            ValueError: another method's plan.
        """
        require(plan.method == self.name, "plan.method", plan.method, self.name)
        decisions = dict(plan.decisions)
        later = [
            {site.name: decisions.pop(site.name) for site in part.sites if site.name in decisions}
            for part in self.parts[1:]
        ]
        # What no part knows goes to the first one, which refuses it by name.
        return [Plan(p.name, own) for p, own in zip(self.parts, [decisions, *later], strict=True)]

    # What some parts can do.

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Show images (B, C, H, W) to the parts that the next search trains, where they look."""
        wanted = [p for i, p in enumerate(self.parts) if self._is_active(i)]
        looking = [part for part in wanted if isinstance(part, SupportsCalibration)]
        shown = list(batches) if len(looking) > 1 else batches
        for part in looking:
            part.calibrate(shown)

    def training_loss(self) -> Tensor:
        """The sum of the parts' own terms, shape ()."""
        zero = next(self.model.parameters()).new_zeros((), dtype=torch.float32)
        terms = [p.training_loss() for p in self.parts if isinstance(p, SupportsTrainingLoss)]
        return sum(terms, zero)

    def use_times_(self, table: Mapping[str, Any]) -> None:
        """Count `latency` by a table; only where all parts have that unit."""
        for part in self.parts:
            if isinstance(part, SupportsMeasuredTimes):
                part.use_times_(table)

    # Costs.

    def options(self, unit: Unit) -> dict[str, Sequence[Option]]:
        """Options now; without costs where those of the last part depend on all others."""
        known = {site: found for part in self.parts for site, found in part.options(unit).items()}
        if not isinstance(self._last, CountsOnBlocks):
            return known
        return {site: [Option(o.decision, None) for o in found] for site, found in known.items()}

    def default_plan(self, budget: Budget) -> Plan:
        """Default plans of the parts; the last part covers the rest of the budget."""

        def default(index: int, alone: Budget) -> Decisions:
            return self.parts[index].default_plan(alone).decisions

        return self._fitted(budget, default)

    def plan_cost(self, plan: Plan, unit: Unit) -> float:
        *_, last = self.plans(plan)
        with self._at(plan.decisions, unit) as beside:
            return float(self._last.plan_cost(last, unit) + beside)

    def smallest_cost(self, unit: Unit) -> float:
        cheapest: dict[str, Decision] = {}
        for index in range(len(self._heads)):
            cheapest |= self._cheapest(index, unit)
        with self._at(cheapest, unit) as beside:
            return float(self._last.smallest_cost(unit) + beside)

    def dense_cost(self, unit: Unit) -> tuple[float, float]:
        searched, fixed = self._last.dense_cost(unit)
        if isinstance(self._last, CountsOnBlocks):
            beside = float(sum(part.macs_beside_blocks({}) for part in self._changing()))
        else:
            beside = sum(part.dense_cost(unit)[0] for part in self._heads)
        return searched + beside, fixed - beside

    # State.

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": None if self.plan is None else self.plan.to_json(),
            "turn": self._turn,
            "parts": [part.state_dict() for part in self.parts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)
        self._turn = state["turn"]
        if state["plan"] is not None:
            self.plan = Plan.from_json(state["plan"])

    # Inside.

    def _is_active(self, index: int) -> bool:
        """Whether the next search trains a part."""
        return self.config.order == "jointly" or index == self._turn

    def _is_settled(self, index: int) -> bool:
        """Whether a part keeps the result of an earlier search."""
        return self.config.order == "in_turn" and index < self._turn

    def _now(self, index: int) -> Decisions:
        """Decisions in force of a part; None throughout while it is dense."""
        part = self.parts[index]
        if part.plan is not None:
            return part.plan.decisions
        return dict.fromkeys((site.name for site in part.sites), None)

    def _changing(self) -> list[ChangesBlocks]:
        """The parts before the last, where the last counts on blocks."""
        return [cast(ChangesBlocks, part) for part in self._heads]

    def _cheapest(self, index: int, unit: Unit) -> Decisions:
        if self._is_settled(index):
            return self._now(index)
        options = self.parts[index].options(unit)
        return {
            site: min(found, key=lambda option: cast(float, option.cost)).decision
            for site, found in options.items()
        }

    def _blocks(self, decided: Sequence[Decisions | None]) -> list[BlockMacs]:
        """Cost of the blocks at decisions of the parts before the last; None: as drawn."""
        first, *others = zip(self._changing(), decided, strict=True)
        blocks = first[0].block_macs(first[1])
        for part, decisions in others:
            changed, dense = part.block_macs(decisions), part.block_macs({})
            blocks = [_plus(b, c, d) for b, c, d in zip(blocks, changed, dense, strict=True)]
        return blocks

    @contextmanager
    def _at(self, decisions: Decisions, unit: Unit) -> Iterator[float]:
        """Count costs of the last part at decisions of the others; returns the latter's cost."""
        if isinstance(self._last, CountsOnBlocks):
            beside = sum(part.macs_beside_blocks(decisions) for part in self._changing())
            with self._last.counting(self._blocks([decisions] * len(self._heads))):
                yield cast(float, beside)
        else:
            own = ({s.name: decisions[s.name] for s in part.sites} for part in self._heads)
            plans = (Plan(part.name, d) for part, d in zip(self._heads, own, strict=True))
            yield sum(p.plan_cost(plan, unit) for p, plan in zip(self._heads, plans, strict=True))

    def _fitted(self, budget: Budget, decide: Any) -> Plan:
        """A plan within a budget.

        Args:
            budget: of all parts together.
            decide: (index of a part, budget for it alone) -> its decisions; of a part before the
                last while the others are dense.

        Raises:
            ValueError: no plan meets the budget; names the smallest reachable cost.
        """
        unit, last = budget.unit, len(self._heads)
        kept = (budget.target + budget.fixed) / budget.dense
        share = self.config.share / last
        while True:
            decided: dict[str, Decision] = {}
            exhausted = True
            for index, part in enumerate(self._heads):
                searched, fixed = part.dense_cost(unit)
                smallest = part.smallest_cost(unit)
                target = max((searched + fixed) * kept**share - fixed, smallest)
                exhausted &= target == smallest
                decided |= decide(index, Budget(unit, target, fixed, searched + fixed))
            with self._at(decided, unit) as beside:
                rest = Budget(unit, budget.target - beside, budget.fixed + beside, budget.dense)
                if exhausted or self._last.smallest_cost(unit) <= rest.target:
                    return Plan(self.name, {**decided, **decide(last, rest)})
            # The last part alone cannot save what these leave.
            share *= TIGHTER


class SearchableComposed(Composed, Searchable):
    """Methods on one model that all have a supernet."""

    parts: tuple[Searchable, ...]

    def prepare_(self) -> None:
        for index, part in enumerate(self.parts):
            if self._is_active(index):
                part.prepare_()

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [each for part in self.parts for each in part.architecture_parameters()]

    def sample_(self, temperature: float, generator: torch.Generator | None) -> None:
        for part in self.parts:
            part.sample_(temperature, generator)

    def expected_cost(self, unit: Unit) -> Tensor:
        """Cost of all searched sites as drawn; parts that are not searched as they are or will be.

        In a search of one part, those whose turn is yet to come have the decisions of the default
        plan of the budget resolved last.
        """
        indices = range(len(self.parts))
        fixed = [None if self._is_active(i) else self._meanwhile_of(i) for i in indices]
        if isinstance(self._last, CountsOnBlocks):
            pairs = list(zip(self._changing(), fixed[:-1], strict=True))
            beside = sum(part.macs_beside_blocks(decisions) for part, decisions in pairs)
            last, decisions = self.parts[-1], fixed[-1]
            with self._last.counting(self._blocks(fixed[:-1])):
                if decisions is None:
                    return last.expected_cost(unit) + beside
                return torch.as_tensor(self._last.macs_at(decisions) + beside)
        costs = [
            part.expected_cost(unit) if own is None else part.plan_cost(Plan(part.name, own), unit)
            for part, own in zip(self.parts, fixed, strict=True)
        ]
        return torch.as_tensor(sum(costs))

    def auxiliary_loss(self) -> Tensor:
        first, *others = (part.auxiliary_loss() for part in self.parts)
        return sum(others, first)

    def named_logits(self) -> dict[str, dict[str, float]]:
        return {s: found for part in self.parts for s, found in part.named_logits().items()}

    def propose(self, budget: Budget, decision: str) -> Proposal:
        """Plans of the parts before the last for their share; the last one meets the rest."""

        def proposed(index: int, alone: Budget) -> Decisions:
            if self._is_settled(index):
                return self._now(index)
            part = self.parts[index]
            if self._is_active(index):
                return part.propose(alone, "projected").plan.decisions
            return part.default_plan(alone).decisions

        if decision == "argmax":
            found = [part.propose(budget, decision).plan.decisions for part in self.parts]
            plan = Plan(self.name, {site: d for own in found for site, d in own.items()})
        else:
            plan = self._fitted(budget, proposed)
        return Proposal(plan, self.plan_cost(plan, budget.unit), self.named_logits())

    def _meanwhile_of(self, index: int) -> Decisions:
        """Decisions that a part which is not searched counts with."""
        if self._is_settled(index) or not self._meanwhile:
            return self._now(index)
        return {site.name: self._meanwhile[site.name] for site in self.parts[index].sites}


def _plus(blocks: BlockMacs, changed: BlockMacs, dense: BlockMacs) -> BlockMacs:
    return BlockMacs(
        blocks.linear + (changed.linear - dense.linear),
        blocks.scores + (changed.scores - dense.scores),
        blocks.values + (changed.values - dense.values),
        blocks.mlp + (changed.mlp - dense.mlp),
        blocks.width,
    )
