"""Token pruning and merging of a model: dense to searchable, to committed, and back."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from adacomcat.budget import COUNTED_IN, Budget, Unit
from adacomcat.checks import require
from adacomcat.cost import BlockMacs, Number, count_macs
from adacomcat.methods.base import Option, ParameterMap, Proposal, Searchable
from adacomcat.methods.tokens.blocks import TokenBlocks, check_rates
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.counts import Counts
from adacomcat.methods.tokens.macs import BlockCost, block_costs, by_width, count, expected
from adacomcat.methods.tokens.rates import Rates
from adacomcat.methods.tokens.supernet import SearchBlocks
from adacomcat.methods.tokens.uniform import scaled, uniform
from adacomcat.models.plain import require_dense
from adacomcat.models.registry import family_of
from adacomcat.models.tensors import check_tensors
from adacomcat.models.tokens import TokenSequence
from adacomcat.plan import Decision, Plan, relative_distance

Decisions = dict[str, int | None]


@dataclass(frozen=True)
class Site:
    """One token count: tokens left by pruning or merging in a block.

    Attributes:
        name: `blocks.3.prune`, `blocks.3.merge`, ...
        counts: that a search may choose, prefix tokens included, falling.
    """

    name: str
    counts: tuple[int, ...]

    def options(self, unit: Unit) -> list[Option]:
        """The counts, fewest tokens first; the cost of one depends on all other counts."""
        return [Option(count, None) for count in reversed(self.counts)]

    def distance(self, a: Decision, b: Decision) -> float:
        """`|a - b| / max(a, b)` of two counts."""
        return relative_distance(a, b)


class DiffRate(Searchable):
    """Token pruning and merging at learnt rates (DiffRate, arXiv 2305.17997).

    A search always starts from all tokens, whatever plan is in force: counts can grow back. No
    parameter of the model is replaced at any time; only the container of its blocks is.
    """

    name = "diffrate"
    units = MappingProxyType({"macs": COUNTED_IN["macs"]})
    keeps_tokens = False

    def __init__(self, model: nn.Module, config: DiffRateConfig) -> None:
        """Bind to a dense model; nothing of it changes yet.

        Raises:
            ValueError: a model or a setting that is not supported, by name.
        """
        self.model = model
        self.config = config
        family = family_of(model)
        require_dense(model)
        self.form = family.tokens(model)
        self.kinds = _kinds(self.form, config)
        free = _free_blocks(self.form, config)
        self.rows = {
            site: row
            for row, site in enumerate(self.form.site(b, k) for b in free for k in self.kinds)
        }
        """Site -> its row in the counts."""
        self.counts = Counts(len(self.rows), self.form, config.granularity)
        self.counts.to(next(model.parameters()).device)
        counts = tuple(self.form.prefix + patches for patches in self.counts.candidates)
        self.sites = [Site(name, counts) for name in self.rows]
        self.costs: Sequence[BlockCost] = block_costs(model, self.form)
        """Costs of each block of the dense model, or as `counting` sets them."""
        self.plan: Plan | None = None
        self._dense_macs = count_macs(model, family.input_shape(model))
        self._held: nn.Module | None = None
        self._frozen: list[nn.Parameter] = []

    # Searchable and back.

    def prepare_(self) -> None:
        assert self._held is None, "prepare_ on a searchable model"
        self._held = self.model.get_submodule(self.form.container)
        self.counts.sample_()
        self._put(
            SearchBlocks(self._held.children(), self.counts, self.form, self.config, self._places())
        )
        self._frozen = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def restore_(self) -> None:
        if self._held is not None:
            self._put(self._held)
        self._leave_searchable()

    def commit_(self, plan: Plan) -> ParameterMap:
        self.check(plan)
        self.restore_()
        same = plan == self.plan
        if not same:
            self._rearrange(plan)
        return ParameterMap(rearranged=not same)

    @torch.no_grad()
    def adopt_(self, model: nn.Module, plan: Plan) -> None:
        assert self.plan is None and self._held is None, "adopt_ wants a dense model"
        self.check_adoptable(model, plan)
        state = model.state_dict()
        check_tensors(state, self.model.state_dict(), "model")
        self._rearrange(plan)
        self.model.load_state_dict(state)

    # The search.

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.counts.logits]

    def sample_(self, temperature: float, generator: torch.Generator | None) -> None:
        """Take the expected counts: there is no noise and no temperature in this method."""
        self.counts.sample_()

    def expected_cost(self, unit: Unit) -> Tensor:
        """MACs of all blocks at the counts drawn, shape ()."""
        counted = self.costs if self.config.macs == "counted" else by_width(self.costs)
        gradient = self.config.min_gradient
        return expected(counted, self.form, self.counts.kept, self._places(), gradient)

    def auxiliary_loss(self) -> Tensor:
        """Nothing to add, shape ()."""
        return self.counts.logits.new_zeros(())

    def propose(self, budget: Budget, decision: str) -> Proposal:
        """Read a plan off the expected counts.

        `argmax` takes them as they are, as published. `projected` scales the numbers of patches
        kept, all by one factor, to the largest that the budget allows, and then gives single
        tokens to the sites that rounding cost most.
        """
        if decision == "argmax":
            counts: Decisions = dict(zip(self.rows, self.counts.counts(), strict=True))
        else:
            patches = dict(zip(self.rows, self.counts.expected_patches(), strict=True))
            counts = scaled(patches, self._least(), self.form, self._macs, budget.target)
        plan = Plan(self.name, counts)
        return Proposal(plan, self.plan_cost(plan, budget.unit), self.named_logits())

    def default_plan(self, budget: Budget) -> Plan:
        """Every block keeps the same share of the tokens that reach it."""
        sites = list(self.rows)
        counts = uniform(sites, self._least(), self.form, self._macs, budget.target)
        return Plan(self.name, counts)

    # Costs.

    @contextmanager
    def counting(self, blocks: Sequence[BlockMacs]) -> Iterator[None]:
        """Count all costs as if the model's blocks cost this, for the length of the context."""
        own = self.costs
        scoring = self.form.scoring
        self.costs = [
            BlockCost(b.linear, b.scores + b.values, b.mlp, scoring * b.scores, b.width)
            for b in blocks
        ]
        try:
            yield
        finally:
            self.costs = own

    def macs_at(self, decisions: Mapping[str, Decision]) -> Number:
        """MACs of all blocks at some counts; differentiable where the blocks' costs are."""
        rates = self.rates(cast(Mapping[str, int | None], decisions))
        return count(self.costs, rates.steps(self.form.tokens), self.form)

    def plan_cost(self, plan: Plan, unit: Unit) -> float:
        return float(self._macs(plan.decisions))

    def smallest_cost(self, unit: Unit) -> float:
        least = self.form.prefix + self._least()
        return float(self._macs(dict.fromkeys(self.rows, least)))

    def dense_cost(self, unit: Unit) -> tuple[float, float]:
        searched = self._macs({})
        return float(searched), float(self._dense_macs - searched)

    # State.

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": None if self.plan is None else self.plan.to_json(),
            "logits": self.counts.logits.detach().clone(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert self.plan is None and self._held is None, "load_state_dict wants a dense model"
        self.counts.logits.copy_(state["logits"])
        if state["plan"] is not None:
            plan = Plan.from_json(state["plan"])
            self.check(plan)
            self._rearrange(plan)

    # Plans.

    def check(self, plan: Plan) -> None:
        """Raise unless a plan is of this model's sites.

        Raises:
            ValueError: another method's, other sites, or a count that is none or leaves no patch.
        """
        require(plan.method == self.name, "plan.method", plan.method, self.name)
        for site, kept in plan.decisions.items():
            sound = kept is None or (type(kept) is int and kept >= 1)
            require(sound, f"plan.decisions.{site}", kept, "an integer of 1 or more, or None")
        # Fixed blocks may be named, as a model's own plan does.
        idle = {self.form.site(b, k) for b in range(self.form.depth) for k in ("prune", "merge")}
        names = {s for s, kept in plan.decisions.items() if kept is not None or s not in idle}
        names |= plan.decisions.keys() & self.rows.keys()
        require(
            names == self.rows.keys(),
            "plan.decisions",
            sorted(names ^ self.rows.keys())[:5],
            f"exactly the {len(self.rows)} searched sites ({next(iter(self.rows))} ...)",
        )
        check_rates(self._rates(plan), self.form)

    def check_adoptable(self, model: nn.Module, plan: Plan) -> None:
        """Raise unless a model drops tokens by a plan, and the plan is of this model's sites.

        Raises:
            ValueError: what differs, by name.
        """
        self.check(plan)
        found = model.get_submodule(self.form.container)
        require(
            isinstance(found, TokenBlocks),
            f"plan.method: model.{self.form.container}",
            type(found).__name__,
            "TokenBlocks, which drop tokens",
        )
        assert isinstance(found, TokenBlocks)
        wanted = self._rates(plan)
        require(found.rates == wanted, "plan.decisions", wanted, f"{found.rates}, of the model")

    def rates(self, decisions: Mapping[str, int | None]) -> Rates:
        """Counts by block; None in those without a decision."""

        def of(kind: str) -> tuple[int | None, ...]:
            blocks = range(self.form.depth)
            return tuple(decisions.get(self.form.site(block, kind)) for block in blocks)

        return Rates(of("prune"), of("merge"))

    # Inside.

    def _rates(self, plan: Plan) -> Rates:
        return self.rates(cast(Mapping[str, int | None], plan.decisions))

    def _macs(self, decisions: Mapping[str, Decision]) -> int:
        return int(self.macs_at(decisions))

    def _places(self) -> list[tuple[int | None, int | None]]:
        """Rows of each block's prune and merge sites."""
        sites = [
            (self.form.site(b, "prune"), self.form.site(b, "merge")) for b in range(self.form.depth)
        ]
        return [(self.rows.get(prune), self.rows.get(merge)) for prune, merge in sites]

    def _least(self) -> int:
        """The fewest patches that a search may leave."""
        return self.counts.candidates[-1]

    def _rearrange(self, plan: Plan) -> None:
        blocks = self.model.get_submodule(self.form.container).children()
        self._put(TokenBlocks(blocks, self._rates(plan), self.form, self.config.sizes))
        self.plan = plan

    def _put(self, container: nn.Module) -> None:
        """Set the container, in the mode (training or evaluation) of the previous one."""
        mode = self.model.get_submodule(self.form.container).training
        # Not of its blocks, which may have modes of their own.
        container.training = mode
        self.model.set_submodule(self.form.container, container)

    def _leave_searchable(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen, self._held = [], None

    def named_logits(self) -> dict[str, dict[str, float]]:
        """Site -> count (as text) -> logit."""
        logits = self.counts.logits.detach().tolist()
        names = [str(self.form.prefix + patches) for patches in self.counts.candidates]
        return {s: dict(zip(names, logits[row], strict=True)) for s, row in self.rows.items()}


def _kinds(form: TokenSequence, config: DiffRateConfig) -> tuple[str, ...]:
    kinds = [] if form.merges_only or not config.prune else ["prune"]
    kinds += ["merge"] if config.merge else []
    require(bool(kinds), "method.merge", config.merge, "true: this model can only merge tokens")
    return tuple(kinds)


def _free_blocks(form: TokenSequence, config: DiffRateConfig) -> list[int]:
    """Blocks that may drop tokens."""
    fixed = config.fixed_blocks
    if fixed is None:
        fixed = (0, -1) if form.pooled or form.merges_only else (0,)
    for block in fixed:
        sound = -form.depth <= block < form.depth
        require(sound, "method.fixed_blocks", block, f"blocks of the model, which has {form.depth}")
    kept = {block % form.depth for block in fixed}
    free = [block for block in range(form.depth) if block not in kept]
    require(bool(free), "method.fixed_blocks", list(fixed), f"one of {form.depth} blocks left out")
    return free
