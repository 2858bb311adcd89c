"""Low-rank factorization of a model: dense to searchable, searchable to committed, and back."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from adacomcat import parallel
from adacomcat.budget import COUNTED_IN, Budget, Unit, project
from adacomcat.checks import require
from adacomcat.cost import BlockMacs, Number, count_macs
from adacomcat.methods.base import MeasuredOption, Move, Option, ParameterMap, Proposal, Searchable
from adacomcat.methods.lowrank.attention import (
    Factors,
    attention_factors,
    between_of,
    build_attention,
    decompose_heads,
    truncate_heads,
)
from adacomcat.methods.lowrank.calibrate import Metrics, site_metrics
from adacomcat.methods.lowrank.commit import committed_attention, committed_linear
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.factorize import Spectrum
from adacomcat.methods.lowrank.latency import (
    measure,
    measure_plans,
    measured_options,
    table_of,
    timed_sites,
)
from adacomcat.methods.lowrank.linear import (
    bias_of,
    build_linear,
    decompose_linear,
)
from adacomcat.methods.lowrank.losses import (
    Estimate,
    measured_losses,
    measured_ranks,
    option_losses,
)
from adacomcat.methods.lowrank.replay import Replay
from adacomcat.methods.lowrank.space import Site, all_sites, ranks_of, searched_sites
from adacomcat.methods.lowrank.spec import adoptable_modules, shape_, shape_of
from adacomcat.methods.lowrank.supernet import Mixture, SupernetAttention, SupernetLinear
from adacomcat.methods.lowrank.uniform import uniform_decisions
from adacomcat.models.base import BlockView
from adacomcat.models.plain import require_dense
from adacomcat.models.registry import family_of
from adacomcat.models.tensors import require_finite
from adacomcat.plan import Decision, Plan
from adacomcat.seeds import generator
from adacomcat.timing import Times


class LowRank(Searchable):
    """Head-level low-rank factorization of a vision transformer (ComCAT, arXiv 2305.17235).

    With `source="current"` a search truncates the factors in force; what was cut off is gone and a
    rank can only fall, as in the reference. With `source="dense"` the columns that a commit cuts
    off are kept beside the model, as they were then, and the next search decomposes the trained
    factors *and* those columns together, so that a rank can grow back without losing what was
    trained since. That costs (inputs + outputs) x (full rank - rank) numbers a site outside the
    model (for DeiT-S at reduction 0.5 some 15 million, two thirds of the dense model), in
    checkpoints too; the model itself stays as small.

    A site whose rank a plan does not change is not touched in either case, so that a search that
    proposes the plan in force leaves the model as it was, bit for bit.
    """

    name = "lowrank"
    units = MappingProxyType({unit: COUNTED_IN[unit] for unit in ("params", "macs", "latency")})
    sites: list[Site]

    def __init__(self, model: nn.Module, config: LowRankConfig) -> None:
        """Bind to a dense model; nothing of it changes yet.

        Raises:
            ValueError: a model or a setting that is not supported, by name.
        """
        self.model = model
        self.config = config
        family = family_of(model)
        view = family.view(model)
        require_dense(model)
        require_finite(dict(model.named_parameters()), "model")
        self._family = family
        self.attentions = view.attentions
        self.all_sites = all_sites(view)
        self.sites = searched_sites(self.all_sites, config)
        self._view = view
        self.plan: Plan | None = None
        self.mixture = Mixture(self.sites).to(next(model.parameters()).device)
        self._dense_macs = count_macs(model, family.input_shape(model))
        self._embeddings = family.embeddings(model)
        self._dense_ns = 0
        self._rows = {site.name: row for row, site in enumerate(self.sites)}
        self._rest: dict[str, tuple[Tensor, Tensor]] = {}
        self._metrics: dict[str, Metrics] = {}
        self._spectra: dict[str, Spectrum] = {}
        self._held: dict[str, nn.Module] = {}
        self._frozen: list[nn.Parameter] = []

    # Searchable and back.

    @torch.no_grad()
    def prepare_(self) -> None:
        assert not self._held, "prepare_ on a searchable model"
        for name, sites in self._modules().items():
            module = self.model.get_submodule(name)
            self._held[name] = module
            self._put(name, self._searchable(module, sites))
        self._frozen = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self.mixture.limit_([self._limit(site) for site in self.sites])
        # Of the last draw, which an earlier search made, nothing may reach a forward of this one.
        self.mixture.sample_(1.0, None)

    def restore_(self) -> None:
        for name, module in self._held.items():
            self._put(name, module)
        self._leave_searchable()

    @torch.no_grad()
    def commit_(self, plan: Plan) -> ParameterMap:
        self.check(plan)
        moves, ranks = [], ranks_of(plan)
        for name, sites in self._modules().items():
            module = self._held.get(name) or self.model.get_submodule(name)
            changed = [s for s in sites if ranks[s.name] != self._rank(s)]
            new = module
            if changed:
                new, move = self._committed(module, changed, ranks)
                moves.append(move)
            self._put(name, new)
        self.plan = plan
        self._leave_searchable()
        return ParameterMap(tuple(moves))

    @torch.no_grad()
    def adopt_(self, model: nn.Module, plan: Plan) -> None:
        """Take over a committed model: its modules' shapes, and copies of its weights.

        With `source="dense"` a rank can grow back to what a commit of the plan would cut off the
        dense model that this method was bound to.
        """
        assert self.plan is None and not self._held, "adopt_ wants a dense model"
        modules = self._adoptable(model, plan)
        if self.config.source == "dense":
            self._keep_rests(ranks_of(plan), modules)
        for name, module in modules.items():
            self._put(name, module)
        self.model.load_state_dict(model.state_dict())
        self.plan = plan
        self._leave_searchable()

    def check_adoptable(self, model: nn.Module, plan: Plan) -> None:
        self._adoptable(model, plan)

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Collect second moments, where `metrics` asks for them; images (B, C, H, W).

        Raises:
            ValueError: no images, or activations or gradients that are not finite.
        """
        if self.config.metrics == "plain":
            return
        self._spectra = {}
        self._metrics = site_metrics(
            self.model,
            self.sites,
            self.attentions,
            batches,
            kind=self.config.metrics,
            biases=self.config.biases == "exact",
            output=self._family.probe(self.model),
            generator=generator(0, "calibration", parallel.rank()),
        )

    # The search.

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.mixture.logits]

    def sample_(self, temperature: float, generator: torch.Generator | None) -> None:
        self.mixture.sample_(temperature, generator)

    def expected_cost(self, unit: Unit) -> Tensor:
        return self.mixture.expected_costs(unit).sum()

    def auxiliary_loss(self) -> Tensor:
        """Nothing to add, shape ()."""
        return self.mixture.logits.new_zeros(())

    def propose(self, budget: Budget, decision: str) -> Proposal:
        values = self.mixture.log_probabilities().cpu()
        options = self.options(budget.unit)
        # Candidates that cannot be chosen now are the last of a site.
        scores = [r[: len(found)] for r, found in zip(values, options.values(), strict=True)]
        if decision == "argmax":
            picks = [int(row.argmax()) for row in scores]
        else:
            costs = [[int(cast(float, o.cost)) for o in found] for found in options.values()]
            choices = [(r.tolist(), c) for r, c in zip(scores, costs, strict=True)]
            picks = project(choices, budget.target, self.units[budget.unit])
        chosen = zip(options.items(), picks, strict=True)
        plan = Plan(self.name, {site: found[pick].decision for (site, found), pick in chosen})
        return Proposal(plan, self.plan_cost(plan, budget.unit), self.named_logits())

    def default_plan(self, budget: Budget) -> Plan:
        """Every site at one share of its full rank, the largest share within the budget."""
        return Plan(self.name, uniform_decisions(self.sites, budget.unit, budget.target))

    def options(self, unit: Unit) -> dict[str, Sequence[Option]]:
        """Options of a search now.

        A rank that cannot grow back leaves the candidates up to it; where the smallest is above it,
        the rank in force stands for that.
        """
        found: dict[str, Sequence[Option]] = {}
        for site in self.sites:
            now = self._limit(site)
            if now is None:
                found[site.name] = site.options(unit)
            else:
                ranks = [c.rank for c in site.candidates if c.rank <= now] or [now]
                found[site.name] = [Option(rank, site.cost(unit, rank)) for rank in ranks]
        return found

    def check_estimate(self, estimate: str) -> None:
        if estimate in ("sensitivity", "measured"):
            allowed = f"gradients, with search.strategy {estimate!r}"
            right = self.config.metrics == "gradients"
            require(right, "method.metrics", self.config.metrics, allowed)

    def losses_of_options(
        self, unit: Unit, estimate: str, images: Tensor | None
    ) -> dict[str, Sequence[tuple[Option, float]]]:
        self.check_estimate(estimate)
        kind = cast(Estimate, estimate)
        replay = None
        if kind == "measured":
            assert images is not None, "measured wants images"
            family = self._family
            replay = Replay(self.model, family.blocks(self.model), family.probe(self.model), images)
        found: dict[str, Sequence[tuple[Option, float]]] = {}
        for name, options in self.options(unit).items():
            site = self.sites[self._rows[name]]
            if self._limit(site) is None:
                options = [*options, Option(None, site.cost(unit, None))]
            ranks = [cast(int | None, option.decision) for option in options]
            spectrum = self._decomposed(self.model.get_submodule(site.module), site)
            losses = option_losses(site, spectrum, ranks, kind)
            if replay is not None:
                points = {
                    rank: replay.error(site.module, self._truncated(site, rank))
                    for rank in measured_ranks(site)
                }
                losses = measured_losses(ranks, losses, points)
            found[name] = list(zip(options, losses, strict=True))
        return found

    def _truncated(self, site: Site, rank: int) -> nn.Module:
        """The module of a site with this site alone at a rank; the model stays as it is."""
        module = self.model.get_submodule(site.module)
        spectrum = self._decomposed(module, site)
        if not site.attention:
            return build_linear(module, spectrum, rank)
        parts = self._factors(module, site.module)
        parts = truncate_heads(parts, site.kind, spectrum, rank // site.groups)
        return build_attention(self.attentions[site.module], module, parts)

    # Costs.

    def use_times_(self, table: Mapping[str, Any]) -> None:
        """Count `latency` by a table: all candidates of all searched sites have to be in it."""
        self.sites, self._dense_ns = timed_sites(self.sites, self.all_sites, table)
        self.mixture.count_("latency", self.sites)

    def measure_times(
        self, images: Tensor, *, repeats: int, on: str
    ) -> tuple[dict[str, Any], dict[str, Times], list[MeasuredOption]]:
        """Time the dense model, and one site of each kind at each of its candidates."""
        biases = self.config.biases == "exact"
        times = measure(self.model, self.sites, images, biases=biases, repeats=repeats)
        table = table_of(times, self.sites, self.all_sites, batch_size=len(images), on=on)
        return table, times, measured_options(table, times)

    def measure_plans(
        self, plans: Mapping[str, Plan], images: Tensor, *, repeats: int
    ) -> dict[str, Times]:
        """Seconds a call of the whole model, dense as `model` and committed to each plan."""
        biases = self.config.biases == "exact"
        return measure_plans(self.model, plans, images, biases=biases, repeats=repeats)

    def plan_cost(self, plan: Plan, unit: Unit) -> float:
        ranks = ranks_of(plan)
        return float(sum(site.cost(unit, ranks[site.name]) for site in self.sites))

    def smallest_cost(self, unit: Unit) -> float:
        options = self.options(unit).values()
        return float(sum(min(cast(float, o.cost) for o in found) for found in options))

    def dense_cost(self, unit: Unit) -> tuple[float, float]:
        searched = sum(s.cost(unit, None) for s in self.sites)
        if unit != "params":
            total = self._dense_macs if unit == "macs" else self._dense_ns
            return float(searched), float(total - searched)
        patches = sum(self.model.get_parameter(name).numel() for name in self._embeddings)
        everywhere = sum(s.cost(unit, None) for s in self.all_sites)
        # Products that cannot be factorized stay dense.
        apart = [view for view in self.attentions.values() if "qk" not in view.products]
        everywhere += sum(2 * view.width * view.heads * view.head_width for view in apart)
        return float(searched), float(patches + everywhere - searched)

    def block_macs(self, decisions: Mapping[str, Decision] | None) -> list[BlockMacs]:
        """Cost of each block at some ranks, or at those of the drawn mixture.

        Args:
            decisions: site -> rank; sites that are not in it are dense. None: expected under the
                drawn mixture, differentiable.
        """
        weights: dict[str, Any] = {site.name: site.cost("params", None) for site in self.all_sites}
        weights |= self._weights(decisions)
        return [_block_macs(block, weights) for block in self._view.blocks]

    def macs_beside_blocks(self, decisions: Mapping[str, Decision] | None) -> Number:
        """MACs of searched sites outside the blocks, such as the classifier; see `block_macs`."""
        weights = self._weights(decisions)
        classifiers = {linear.site for linear in self._view.classifiers}
        outside = [site for site in self.sites if site.name in classifiers]
        return sum(weights[site.name] * site.tokens for site in outside)

    # State.

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": None if self.plan is None else self.plan.to_json(),
            "logits": self.mixture.logits.detach().clone(),
            "rest": {name: list(pair) for name, pair in self._rest.items()},
            # The plan alone does not tell: a site that grew back to dense may stay factorized.
            "shapes": self._shapes(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert self.plan is None and not self._held, "load_state_dict wants a dense model"
        self.mixture.logits.copy_(state["logits"])
        device = self.mixture.logits.device
        self._rest = {n: (a.to(device), b.to(device)) for n, (a, b) in state["rest"].items()}
        if state["plan"] is None:
            return
        plan = Plan.from_json(state["plan"])
        self.check(plan)
        shape_(self.model, state["shapes"])
        self.plan = plan

    # Inside.

    def _weights(self, decisions: Mapping[str, Decision] | None) -> dict[str, Any]:
        """Searched site -> its weights, numbers or tensors of shape ()."""
        if decisions is None:
            expected = self.mixture.expected_costs("params").unbind()
            return {site.name: found for site, found in zip(self.sites, expected, strict=True)}
        ranks = cast(Mapping[str, int | None], decisions)
        return {site.name: site.cost("params", ranks.get(site.name)) for site in self.sites}

    def _limit(self, site: Site) -> int | None:
        """The largest rank that a search may choose now; None for any."""
        return self._rank(site) if self.config.source == "current" else None

    def _modules(self) -> dict[str, list[Site]]:
        modules: dict[str, list[Site]] = {}
        for site in self.sites:
            modules.setdefault(site.module, []).append(site)
        return modules

    def _shapes(self) -> dict[str, dict[str, Any]]:
        """Descriptions of the factorized modules, also while a supernet stands in their place."""
        modules = {n: self._held.get(n) or self.model.get_submodule(n) for n in self._modules()}
        shapes = {name: shape_of(module) for name, module in modules.items()}
        return {name: shape for name, shape in shapes.items() if shape is not None}

    def _rank(self, site: Site) -> int | None:
        return None if self.plan is None else ranks_of(self.plan)[site.name]

    def check(self, plan: Plan) -> None:
        """Raise unless a plan is of these sites, with ranks that they can have now."""
        require(plan.method == self.name, "plan.method", plan.method, self.name)
        names, known = set(plan.decisions), {s.name for s in self.sites}
        require(
            names == known,
            "plan.decisions",
            sorted(names ^ known)[:5],
            f"exactly the {len(known)} searched sites ({self.sites[0].name} ...)",
        )
        for site in self.sites:
            field, now = f"plan.decisions.{site.name}", self._rank(site)
            decision = site.check_rank(plan.decisions[site.name], field)
            grows = now is not None and (decision is None or decision > now)
            require(
                not grows or self.config.source == "dense",
                field,
                decision,
                f"at most {now}, the rank in force (method.source 'current' cannot grow one back)",
            )

    def _adoptable(self, model: nn.Module, plan: Plan) -> dict[str, nn.Module]:
        self.check(plan)
        return adoptable_modules(self.model, model, plan, self.sites)

    def _keep_rests(
        self, ranks: Mapping[str, int | None], modules: Mapping[str, nn.Module]
    ) -> None:
        """Keep what a commit of ranks would cut off the dense model, for `modules` to grow."""
        biases = self.config.biases == "exact"
        cut = [s for s in self.sites if s.module in modules and ranks[s.name] is not None]
        for site in (s for s in cut if s.attention):
            # What was cut off has a row for the query bias, or none, as what it continues.
            pair = (self.model.get_submodule(site.module), modules[site.module])
            view = self.attentions[site.module]
            wanted, found = (attention_factors(view, m, biases=biases).q.shape[1] for m in pair)
            require(
                found == wanted,
                f"model.{site.module}: a query bias",
                found > site.inputs,
                f"{wanted > site.inputs}, as method.source 'dense' makes of the dense model",
            )
        for site in cut:
            spectrum = self._decomposed(self.model.get_submodule(site.module), site)
            self._keep_rest(site, spectrum, self._columns(site, ranks[site.name]))

    def _put(self, name: str, module: nn.Module) -> None:
        """Set a module in its place, in the mode (training or evaluation) of what was there."""
        module.train(self.model.get_submodule(name).training)
        self.model.set_submodule(name, module)

    def _leave_searchable(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen, self._held, self._spectra = [], {}, {}

    def _decomposed(self, module: nn.Module, site: Site) -> Spectrum:
        """The site's spectrum, computed once between two commits."""
        if site.name not in self._spectra:
            rest, metrics = self._rest.get(site.name), self._metrics.get(site.name, (None, None))
            if site.attention:
                parts = self._factors(module, site.module)
                spectrum = decompose_heads(parts, site.kind, rest, metrics)
            else:
                spectrum = decompose_linear(module, rest, metrics)
            self._spectra[site.name] = spectrum
        return self._spectra[site.name]

    def _searchable(self, module: nn.Module, sites: Sequence[Site]) -> nn.Module:
        largest = {s.name: s.candidates[-1].rank // s.groups for s in sites}
        if not sites[0].attention:
            (site,) = sites
            spectrum = self._decomposed(module, site)
            row = self._rows[site.name]
            return SupernetLinear(spectrum, largest[site.name], bias_of(module), self.mixture, row)
        name = sites[0].module
        parts = self._factors(module, name)
        rows: dict[str, int] = {}
        for site in sites:
            spectrum = self._decomposed(module, site)
            parts = truncate_heads(parts, site.kind, spectrum, largest[site.name])
            rows[site.kind] = self._rows[site.name]
        return SupernetAttention(
            self.attentions[name],
            parts,
            self.mixture,
            rows,
            between_of(self.attentions[name], module),
        )

    def _factors(self, module: nn.Module, name: str) -> Factors:
        """The factors of the attention of this name, of which `module` is the present form."""
        biases = self.config.biases == "exact"
        return attention_factors(self.attentions[name], module, biases=biases)

    def _committed(
        self, module: nn.Module, changed: Sequence[Site], ranks: Mapping[str, int | None]
    ) -> tuple[nn.Module, Move]:
        spectra = {s.kind: self._decomposed(module, s) for s in changed}
        columns = {s.kind: self._columns(s, ranks[s.name]) for s in changed}
        for site in changed:
            self._keep_rest(site, spectra[site.kind], columns[site.kind])
        if changed[0].attention:
            name, biases = changed[0].module, self.config.biases == "exact"
            view, parts = self.attentions[name], self._factors(module, name)
            return committed_attention(view, module, parts, spectra, columns, biases=biases)
        (site,) = changed
        to_dense = ranks[site.name] is None
        return committed_linear(module, spectra[site.kind], columns[site.kind], to_dense=to_dense)

    def _columns(self, site: Site, rank: int | None) -> int:
        """Columns a group that a decision keeps; dense keeps all."""
        return (site.full if rank is None else rank) // site.groups

    def _keep_rest(self, site: Site, spectrum: Spectrum, rank: int) -> None:
        if self.config.source == "dense":
            left, right = spectrum.left[..., rank:], spectrum.right[..., rank:]
            self._rest[site.name] = (left.contiguous(), right.contiguous())

    def named_logits(self) -> dict[str, dict[str, float]]:
        """Site -> rank (as text) -> logit."""
        logits = self.mixture.logits.detach().cpu()
        return {
            site.name: {str(c.rank): float(logits[row, i]) for i, c in enumerate(site.candidates)}
            for row, site in enumerate(self.sites)
        }


def _block_macs(block: BlockView, weights: Mapping[str, Any]) -> BlockMacs:
    """Cost of a block whose sites have so many weights."""
    mlp: Any = sum(weights[linear.site] for linear in block.linears)
    view = block.attention
    assert view is not None, f"{block.name} has no attention by heads"
    parts = {}
    for kind, head in (("qk", view.head_width), ("vo", view.value_width)):
        # A product that cannot be factorized stays dense.
        dense = 2 * view.width * view.heads * head
        parts[kind] = weights[f"{block.name}.{kind}"] if kind in view.products else dense
    # Weights of an attention site are 2 x width x rank.
    scores, values = (parts[kind] / (2 * view.width) for kind in ("qk", "vo"))
    return BlockMacs(parts["qk"] + parts["vo"], scores, values, mlp, view.width)
