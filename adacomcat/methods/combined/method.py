"""Both methods on one model: `lowrank` changes what the blocks hold, `diffrate` what runs through.

What one costs depends on the other: a rank is paid once a token. All MACs are therefore those of
the blocks at given ranks and given counts together; they are no sum over sites.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adacomcat.budget import Budget
from adacomcat.checks import require
from adacomcat.config import BudgetConfig, Unit, from_mapping
from adacomcat.methods.base import CompressionMethod, ParameterMap, Proposal
from adacomcat.methods.combined.config import CombinedConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.macs import BlockCost, count
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.plan import Plan

Decided = Mapping[str, int | None]
TIGHTER = 1.05
"""Ranks save so many times more, until the tokens can save the rest."""


class Combined(CompressionMethod):
    """Low-rank weights (ComCAT, arXiv 2305.17235) and token rates (DiffRate, arXiv 2305.17997).

    A plan holds the decisions of both. Ours: neither paper has the two together.
    """

    name: ClassVar[str] = "lowrank+diffrate"
    units: ClassVar[tuple[Unit, ...]] = ("macs",)
    keeps_tokens: ClassVar[bool] = False

    def __init__(self, model: nn.Module, config: CombinedConfig) -> None:
        """Bind to a dense model; nothing of it changes yet.

        Raises:
            ValueError: a model or a setting that one of the two does not support, by name.
        """
        self.model = model
        self.config = config
        self.ranks = LowRank(model, from_mapping(LowRankConfig, config.lowrank, "method.lowrank"))
        settings = from_mapping(DiffRateConfig, config.diffrate, "method.diffrate")
        self.tokens = DiffRate(model, settings)
        self.plan: Plan | None = None
        blocks = f"{self.tokens.form.container}."
        self._inside = {s.name: s for s in self.ranks.all_sites if s.name.startswith(blocks)}
        self._outside = [site for site in self.ranks.sites if site.name not in self._inside]
        searched, fixed = self.tokens.dense_cost("macs")
        beside = sum(site.cost("macs", None) for site in self._outside)
        self._dense = (searched + beside, fixed - beside)
        self._meanwhile: Decided = {}

    def budget(self, config: BudgetConfig) -> Budget:
        found = super().budget(config)
        if self.config.order == "ranks_first":
            # A search of the ranks alone need not save what the tokens will.
            self._meanwhile = self._parts(self.default_plan(found))[1].decisions
        return found

    # Searchable and back.

    def prepare_(self) -> None:
        if self._searches_ranks:
            self.ranks.prepare_()
        if self._searches_tokens:
            self.tokens.prepare_()

    def restore_(self) -> None:
        self.tokens.restore_()
        self.ranks.restore_()

    def commit_(self, plan: Plan) -> ParameterMap:
        ranks, tokens = self._parts(plan)
        # Both are right, or nothing changes.
        self.ranks.check(ranks)
        self.tokens.check(tokens)
        arranged = self.tokens.commit_(tokens)
        moved = self.ranks.commit_(ranks)
        self.plan = plan
        return ParameterMap(moved.moves, rearranged=arranged.rearranged)

    def adopt_(self, model: nn.Module, plan: Plan) -> None:
        ranks, tokens = self._parts(plan)
        self.tokens.check_adoptable(model, tokens)
        self.ranks.adopt_(model, ranks)
        self.tokens.adopt_(model, tokens)
        self.plan = plan

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        if self._searches_ranks:
            self.ranks.calibrate(batches)

    # The search.

    def architecture_parameters(self) -> list[nn.Parameter]:
        return self.ranks.architecture_parameters() + self.tokens.architecture_parameters()

    def sample_(self, temperature: float, generator: torch.Generator | None) -> None:
        self.ranks.sample_(temperature, generator)
        self.tokens.sample_(temperature, generator)

    def expected_cost(self, unit: Unit) -> Tensor:
        """MACs of the blocks at the drawn ranks and counts, and of the other searched sites.

        While only the ranks are searched, at the uniform rates of the budget resolved last.
        """
        weights = self._weights(self._ranks_now())
        outside: Any = self._outside_macs(self._ranks_now())
        if self._searches_ranks:
            drawn = self.ranks.expected_weights()
            weights |= drawn
            outside = sum(drawn[site.name] * site.tokens for site in self._outside)
        costs = self._costs(weights)
        if self._searches_tokens:
            return self.tokens.expected_macs(costs) + outside
        form = self.tokens.form
        steps = self.tokens.rates(self._meanwhile).steps(form.tokens)
        return self.tokens.counts.logits.new_zeros(()) + count(costs, steps, form) + outside

    def auxiliary_loss(self) -> Tensor:
        return self.ranks.auxiliary_loss() + self.tokens.auxiliary_loss()

    def propose(self, budget: Budget, decision: str) -> Proposal:
        """Ranks first, for their share of the budget; the tokens then meet the rest of it."""
        if decision == "argmax":
            parts = (self.ranks, self.tokens)
            found = [part.propose(budget, decision).plan.decisions for part in parts]
            plan = Plan(self.name, {**found[0], **found[1]})
        else:
            plan = self._fitted(budget, self._proposed_ranks, self._proposed_tokens)
        logits = {**self.ranks.named_logits(), **self.tokens.named_logits()}
        return Proposal(plan, self.plan_cost(plan, budget.unit), logits)

    def default_plan(self, budget: Budget) -> Plan:
        """Uniform ranks for their share of the budget, and uniform rates for the rest."""

        def ranks(alone: Budget) -> Mapping[str, int | None]:
            return self.ranks.default_plan(alone).decisions

        return self._fitted(budget, ranks, self.tokens.fit_uniform)

    # Costs.

    def plan_cost(self, plan: Plan, unit: Unit) -> float:
        ranks, tokens = self._parts(plan)
        costs = self._costs(self._weights(ranks.decisions))
        return float(
            self.tokens.macs(costs, tokens.decisions) + self._outside_macs(ranks.decisions)
        )

    def smallest_cost(self, unit: Unit) -> float:
        ranks = self._smallest_ranks()
        costs = self._costs(self._weights(ranks))
        return float(self.tokens.smallest_macs(costs) + self._outside_macs(ranks))

    def dense_cost(self, unit: Unit) -> tuple[float, float]:
        return self._dense

    # State.

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": None if self.plan is None else self.plan.to_json(),
            "ranks": self.ranks.state_dict(),
            "tokens": self.tokens.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.ranks.load_state_dict(state["ranks"])
        self.tokens.load_state_dict(state["tokens"])
        if state["plan"] is not None:
            self.plan = Plan.from_json(state["plan"])

    # Inside.

    @property
    def _searches_ranks(self) -> bool:
        """Whether the next search trains the ranks."""
        return self.config.order == "jointly" or self.plan is None

    @property
    def _searches_tokens(self) -> bool:
        """Whether the next search trains the token rates."""
        return self.config.order == "jointly" or self.plan is not None

    def _parts(self, plan: Plan) -> tuple[Plan, Plan]:
        """The plans of ranks and of tokens that a plan is made of."""
        require(plan.method == self.name, "plan.method", plan.method, self.name)
        tokens = {s: kept for s, kept in plan.decisions.items() if s in self.tokens.rows}
        ranks = {s: rank for s, rank in plan.decisions.items() if s not in tokens}
        return Plan(self.ranks.name, ranks), Plan(self.tokens.name, tokens)

    def _proposed_ranks(self, alone: Budget) -> Decided:
        if self._searches_ranks:
            return self.ranks.propose(alone, "projected").plan.decisions
        return self._ranks_now()

    def _proposed_tokens(self, costs: Sequence[BlockCost], target: float) -> Decided:
        fit = self.tokens.fit if self._searches_tokens else self.tokens.fit_uniform
        return fit(costs, target)

    def _fitted(
        self,
        budget: Budget,
        ranks: Callable[[Budget], Decided],
        tokens: Callable[[Sequence[BlockCost], float], Decided],
    ) -> Plan:
        """A plan within a budget.

        Args:
            budget: of both together.
            ranks: decisions within a budget for the ranks alone, with all tokens.
            tokens: decisions within a target in MACs, where the blocks cost so much.

        Raises:
            ValueError: no plan meets the budget; names the smallest reachable cost.
        """
        searched, fixed = self.ranks.dense_cost("macs")
        dense, smallest = searched + fixed, self.ranks.smallest_cost("macs")
        kept, share = (budget.target + budget.fixed) / budget.dense, self.config.share
        while True:
            target = max(dense * kept**share - fixed, smallest)
            decided = ranks(Budget("macs", target, fixed, dense))
            costs = self._costs(self._weights(decided))
            rest = budget.target - self._outside_macs(decided)
            if target == smallest or self.tokens.smallest_macs(costs) <= rest:
                return Plan(self.name, {**decided, **tokens(costs, rest)})
            # The tokens alone cannot save what these ranks leave.
            share *= TIGHTER

    def _ranks_now(self) -> Decided:
        if self.ranks.plan is not None:
            return self.ranks.plan.decisions
        return dict.fromkeys((site.name for site in self.ranks.sites), None)

    def _smallest_ranks(self) -> Decided:
        searched, fixed = self.ranks.dense_cost("macs")
        alone = Budget("macs", self.ranks.smallest_cost("macs"), fixed, searched + fixed)
        return self._proposed_ranks(alone)

    def _weights(self, decided: Decided) -> dict[str, Any]:
        """Site -> its weights, of all sites in the blocks."""
        return {name: site.cost("params", decided.get(name)) for name, site in self._inside.items()}

    def _outside_macs(self, decided: Decided) -> int:
        """MACs of searched sites that are not in the blocks, such as the classifier."""
        return sum(site.cost("macs", decided[site.name]) for site in self._outside)

    def _costs(self, weights: Mapping[str, Any]) -> list[BlockCost]:
        """What the blocks cost at these weights of their sites, numbers or tensors of shape ()."""
        form, costs = self.tokens.form, []
        for block in range(form.depth):
            names = [f"{form.container}.{block}.{kind}" for kind in ("qk", "vo", "fc1", "fc2")]
            qk, vo, fc1, fc2 = (weights[name] for name in names)
            width = self._inside[names[0]].inputs
            # Weights of an attention site are 2 x width x rank.
            score, value = qk / (2 * width), vo / (2 * width)
            costs.append(
                BlockCost(
                    linear=qk + vo,
                    square=score + value,
                    mlp=fc1 + fc2,
                    score=form.scoring * score,
                    width=width,
                )
            )
        return costs
