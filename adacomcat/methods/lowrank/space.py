"""Sites of a vision transformer and the ranks that a search may choose for each.

A rank is counted over all heads together: a `qk` of rank 252 with 6 heads keeps 42 singular values
a head. What it costs, with D channels a token, N tokens and P query-key pairs of its own block
(N squared without windows; ComCAT, arXiv 2305.17235; biases not counted):

    site             params          MACs an image
    qk               2 D r           2 D r N + r P
    vo               2 D r           2 D r N + r P
    fc1, fc2         (in + out) r    (in + out) r N
    head             (in + out) r    (in + out) r

Latency, nanoseconds an image, is looked up in a table of what was measured; see `latency.py`.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from adacomcat.budget import Unit
from adacomcat.checks import require
from adacomcat.methods.base import Option
from adacomcat.methods.lowrank.config import KINDS, LowRankConfig
from adacomcat.methods.lowrank.recipe import PAPER_MENUS
from adacomcat.models.base import AttentionView, LinearView, ModelView
from adacomcat.plan import Decision, Plan, relative_distance

FINE_STEPS = 32
"""Steps of the space `fine` between nothing and the full rank."""
ALIGNMENT = 8
"""Matrix units of current accelerators want sizes in multiples of 8 (bf16)."""


@dataclass(frozen=True)
class Candidate:
    """One choice of a site.

    Attributes:
        rank: what the plan says and the committed model has, over all heads.
        nominal: what the expected cost of a search counts; the paper's menu entry before it is
            rounded down to a multiple of the heads, else the rank.
    """

    rank: int
    nominal: int


@dataclass(frozen=True)
class SiteTimes:
    """Time of a site, in nanoseconds per image.

    Attributes:
        dense: of its dense module; of an attention, half of it.
        ranks: rank -> of the factorized module.
    """

    dense: int
    ranks: Mapping[int, int]


@dataclass(frozen=True)
class Site:
    """One searchable rank.

    Attributes:
        name: `blocks.0.qk`, ...; module: name of the module that holds it.
        groups: heads of an attention site, else 1.
        inputs, outputs: sizes of the two sides of the product.
        full: the rank that loses nothing, over all groups.
        tokens: rows of an image that pass through; 1 for a classifier.
        candidates: in rising order of rank.
        times: at the candidates, where they were measured.
        pairs: query-key pairs of an image; 0 for a linear site.
        timed_as: entry of a table of times; the kind, or where sites of a kind differ in size, the
            name of the first one of this size.
    """

    name: str
    kind: str
    module: str
    groups: int
    inputs: int
    outputs: int
    full: int
    tokens: int
    candidates: tuple[Candidate, ...] = ()
    times: SiteTimes | None = None
    pairs: int = 0
    timed_as: str = ""

    @property
    def attention(self) -> bool:
        return self.kind in ("qk", "vo")

    @property
    def sizes(self) -> tuple[str | int, ...]:
        """All that its costs depend on beside the rank."""
        shape = (self.inputs, self.outputs, self.groups, self.full)
        return (self.kind, *shape, self.tokens, self.pairs)

    def options(self, unit: Unit) -> list[Option]:
        """Options of a search by rising rank, with their costs."""
        ranks = (self.decision(unit, candidate.rank) for candidate in self.candidates)
        return [Option(rank, self.cost(unit, rank)) for rank in ranks]

    def distance(self, a: Decision, b: Decision) -> float:
        """`|a - b| / max(a, b)` of two ranks."""
        return relative_distance(a, b)

    def cost(self, unit: Unit, rank: int | None) -> int:
        """Weights, MACs or nanoseconds at a rank; None for the dense matrices."""
        if unit == "latency":
            return self._measured(rank)
        if rank is None and self.attention:
            rank = self.full
        weights = (
            self.inputs * self.outputs if rank is None else (self.inputs + self.outputs) * rank
        )
        if unit == "params":
            return weights
        scores = self.pairs * rank if self.attention and rank is not None else 0
        return weights * self.tokens + scores

    def decision(self, unit: Unit, rank: int) -> int | None:
        """Decision if this rank is chosen: None where dense was measured no slower."""
        slow = unit == "latency" and self.cost(unit, rank) >= self.cost(unit, None)
        return None if slow else rank

    def counted(self, unit: Unit, candidate: Candidate) -> int:
        """Cost of a candidate in the expected cost of a search."""
        if unit == "latency":
            return self.cost(unit, self.decision(unit, candidate.rank))
        return self.cost(unit, candidate.nominal)

    def _measured(self, rank: int | None) -> int:
        """Nanoseconds at a rank; at one that is no candidate, those of the next larger one."""
        assert self.times is not None, "use_times_ comes before any cost in latency"
        if rank is None:
            return self.times.dense
        largest = max(self.times.ranks)
        field = f"plan.decisions.{self.name}"
        allowed = f"up to {largest}, the largest rank of budget.latency, or null for dense"
        require(rank <= largest, field, rank, allowed)
        return self.times.ranks[min(known for known in self.times.ranks if known >= rank)]

    def check_rank(self, rank: Decision, field: str) -> int | None:
        """The decision as a rank that the site can have.

        Raises:
            ValueError: no integer, 0, above the full rank, or no multiple of the heads.
        """
        sound = rank is None or self.has_rank(rank)
        require(sound, field, rank, f"{self.ranks}, or null for dense")
        assert rank is None or isinstance(rank, int)
        return rank

    def has_rank(self, rank: Decision) -> bool:
        """Whether the site can be factorized at this rank."""
        # By type: to Python True is an integer, too.
        return type(rank) is int and 0 < rank <= self.full and rank % self.groups == 0

    @property
    def ranks(self) -> str:
        """The ranks that the site can have, in words."""
        if self.groups > 1:
            return f"multiples of {self.groups} heads up to {self.full}"
        return f"1 to {self.full}"


def ranks_of(plan: Plan) -> Mapping[str, int | None]:
    """The decisions of a low-rank plan that was checked, or made here, as ranks."""
    return cast(Mapping[str, int | None], plan.decisions)


def all_sites(view: ModelView) -> list[Site]:
    """Every site of a model in the reference's order.

    That is qk, vo, fc1, fc2 of each block, then the classifiers.

    Raises:
        ValueError: an attention whose heads are wider than its input.
    """
    sites: list[Site] = []
    for block in view.blocks:
        if block.attention is not None:
            sites += [_attention_site(block.attention, kind) for kind in block.attention.products]
        sites += [_linear_site(linear) for linear in block.linears]
    sites += [_linear_site(linear) for linear in view.classifiers]
    first: dict[tuple[str | int, ...], str] = {}
    for site in sites:
        unnamed = site.kind not in (first[sizes] for sizes in first)
        first.setdefault(site.sizes, site.kind if unnamed else site.name)
    return [replace(site, timed_as=first[site.sizes]) for site in sites]


def searched_sites(sites: Sequence[Site], config: LowRankConfig) -> list[Site]:
    """The sites that `config` searches, with their candidates.

    Raises:
        ValueError: a pattern that matches nothing, a rank that a site cannot have, a width without
            a published menu, or a site for which no rank saves anything.
    """
    names = _match(sites, config.sites, "method.sites")
    names -= _match(sites, config.keep_dense, "method.keep_dense")
    require(
        bool(names),
        "method.sites, method.keep_dense",
        (config.sites, config.keep_dense),
        "at least one site left to search",
    )
    chosen = []
    for site in sites:
        if site.name in names:
            chosen.append(replace(site, candidates=_candidates(site, config)))
    return chosen


def _attention_site(view: AttentionView, kind: str) -> Site:
    head = view.head_width if kind == "qk" else view.value_width
    allowed = f"at most {view.width}, the width of the block"
    require(head <= view.width, f"{view.module}: width of a head", head, allowed)
    return Site(
        name=f"{view.block}.{kind}",
        kind=kind,
        module=view.module,
        groups=view.heads,
        inputs=view.width,
        outputs=view.width,
        full=view.heads * head,
        tokens=view.tokens,
        pairs=view.pairs,
    )


def _linear_site(view: LinearView) -> Site:
    return Site(
        name=view.site,
        kind=view.kind,
        module=view.module,
        groups=1,
        inputs=view.inputs,
        outputs=view.outputs,
        full=min(view.inputs, view.outputs),
        tokens=view.tokens,
    )


def _match(sites: Sequence[Site], patterns: Iterable[str], field: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        hits = {s.name for s in sites if s.kind == pattern or fnmatch.fnmatch(s.name, pattern)}
        # A kind that this model lacks (a headless backbone) is no mistake; a pattern is.
        require(
            bool(hits) or pattern in KINDS,
            field,
            pattern,
            f"a kind ({', '.join(KINDS)}) or a pattern that matches a site "
            f"({sites[0].name} ... {sites[-1].name})",
        )
        found |= hits
    return found


def _candidates(site: Site, config: LowRankConfig) -> tuple[Candidate, ...]:
    if site.kind in config.ranks:
        found = [_asked_for(site, rank) for rank in sorted(set(config.ranks[site.kind]))]
    elif config.space == "paper":
        found = [_rounded_down(site, nominal) for nominal in _paper_menu(site)]
    elif config.space == "fine":
        per_group = site.full // site.groups
        step = max(1, per_group // FINE_STEPS)
        ranks = {columns * site.groups for columns in range(step, per_group + 1, step)}
        found = [Candidate(rank, rank) for rank in sorted(ranks)]
    else:
        step = ALIGNMENT if config.space == "aligned" else 1
        ranks = {_fraction(site, fraction, step) for fraction in config.fractions}
        found = [Candidate(rank, rank) for rank in sorted(ranks)]
    # Rounded down to whole heads, two menu entries may be one rank, or none at all.
    distinct = {c.rank: c for c in reversed(found) if c.rank > 0}
    found = sorted(distinct.values(), key=lambda candidate: candidate.rank)
    dense = site.cost("params", None)
    if not config.allow_larger:
        found = [c for c in found if site.cost("params", c.nominal) <= dense]
    require(
        bool(found),
        "method.space",
        config.space,
        f"a rank of {site.name} at which two factors cost no more than the dense {dense} weights "
        "(or name the site in method.keep_dense, or set method.allow_larger)",
    )
    return tuple(found)


def _rounded_down(site: Site, nominal: int) -> Candidate:
    return Candidate(nominal // site.groups * site.groups, nominal)


def _asked_for(site: Site, rank: int) -> Candidate:
    require(
        site.groups <= rank <= site.full,
        f"method.ranks.{site.kind}",
        rank,
        f"{site.groups} to {site.full} (the full rank of {site.name})",
    )
    return _rounded_down(site, rank)


def _paper_menu(site: Site) -> tuple[int, ...]:
    menus = dict(PAPER_MENUS)
    width = min(site.inputs, site.outputs)
    require(
        width in menus,
        "method.space",
        "paper",
        f"widths {', '.join(map(str, menus))}; {site.name} has {width}: use fractions or aligned, "
        f"or name it in method.keep_dense",
    )
    return menus[width]


def _fraction(site: Site, fraction: float, step: int) -> int:
    per_group = site.full // site.groups
    rank = max(1, round(fraction * per_group / step)) * step
    require(
        step <= per_group,
        "method.space",
        "aligned",
        f"at least {step} singular values a head or layer; {site.name} has {per_group}",
    )
    return min(rank, per_group // step * step) * site.groups
