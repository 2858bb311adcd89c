"""Supernet: every site a soft mixture over its candidate ranks, computed as one product.

Shapes: B batch, N tokens, D channels, H heads, S sites, C candidates (of the site that has most),
    K kept columns (of the site that has most).

Truncations of one spectrum nest, so that a mixture over ranks r_1 < ... < r_C with weights m_i is

    sum_i m_i U_{r_i} V_{r_i}^T = U diag(c) V^T,    c_j = sum of m_i over r_i > j,

with U and V carrying the square roots of the singular values. One low-rank product replaces C dense
ones, scores are ordinary inner products of queries and keys, and gradients with respect to m are
exact (ComCAT, arXiv 2305.17235, equation 8, computes the C products one by one). The gates c scale
activations, not weights, so that no weight needs a gradient.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adacomcat.budget import Unit
from adacomcat.methods.lowrank.attention import Factors, put_together
from adacomcat.methods.lowrank.factorize import Spectrum
from adacomcat.methods.lowrank.space import Site
from adacomcat.models.base import AttentionView
from adacomcat.models.heads import HeadAttention, Heads, LinearStandIn

COUNTED: tuple[Unit, ...] = ("params", "macs")
"""Units that need no measurement."""


class Mixture(nn.Module):
    """The logits of all sites in one tensor, and what is drawn from them.

    Attributes:
        logits: (S, C), the architecture parameters; sites with fewer candidates leave the end
            unused.
        weights: (S, C), the last drawn mixture; zero where a site has no candidate.
        gates: (S, K), the last drawn gates.
    """

    logits: nn.Parameter
    usable: Tensor
    reach: Tensor
    weights: Tensor
    gates: Tensor

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self.sites = tuple(sites)
        candidates = max(len(s.candidates) for s in sites)
        columns = max(s.candidates[-1].rank // s.groups for s in sites)
        usable = torch.zeros(len(sites), candidates, dtype=torch.bool)
        reach = torch.zeros(len(sites), candidates, columns)
        for row, site in enumerate(sites):
            usable[row, : len(site.candidates)] = True
            for column, candidate in enumerate(site.candidates):
                reach[row, column, : candidate.rank // site.groups] = 1.0
        self.logits = nn.Parameter(torch.zeros(len(sites), candidates))
        for unit in COUNTED:
            self.count_(unit, sites)
        self.register_buffer("usable", usable, persistent=False)
        self.register_buffer("reach", reach, persistent=False)
        self.sample_(1.0, None)

    def count_(self, unit: Unit, sites: Sequence[Site]) -> None:
        """Count a unit by what these sites cost, which are the mixture's own."""
        costs = torch.zeros(self.logits.shape)
        for row, site in enumerate(sites):
            found = [site.counted(unit, candidate) for candidate in site.candidates]
            costs[row, : len(found)] = torch.tensor(found)
        self.register_buffer(f"cost_{unit}", costs.to(self.logits.device), persistent=False)

    def limit_(self, ranks: Sequence[int | None]) -> None:
        """Leave only candidates up to each site's rank (None: all); the smallest always stays."""
        for row, (site, rank) in enumerate(zip(self.sites, ranks, strict=True)):
            for column, candidate in enumerate(site.candidates):
                self.usable[row, column] = column == 0 or rank is None or candidate.rank <= rank

    def sample_(self, temperature: float, generator: torch.Generator | None) -> None:
        """Draw Gumbel-softmax weights (arXiv 1611.01144); without a generator, the softmax."""
        scores: Tensor = self.logits
        if generator is not None:
            # Drawn on the generator's device, so that a seed means the same on CPU and GPU.
            noise = torch.empty(scores.shape, device=generator.device)
            noise = -noise.exponential_(generator=generator).log()
            scores = scores + noise.to(scores.device)
        scores = (scores / temperature).masked_fill(~self.usable, -torch.inf)
        self.weights = scores.softmax(-1)
        self.gates = torch.einsum("sc,sck->sk", self.weights, self.reach)

    def log_probabilities(self) -> Tensor:
        """(S, C) in float64, without noise or temperature; -inf where a site has no candidate."""
        scores = self.logits.detach().double().masked_fill(~self.usable, -torch.inf)
        return scores.log_softmax(-1)

    def expected_costs(self, unit: Unit) -> Tensor:
        """(S,), the cost of each site's drawn mixture, as it counts its candidates."""
        return (self.weights * self.get_buffer(f"cost_{unit}")).sum(-1)


class SupernetAttention(HeadAttention):
    """Attention whose qk and vo products are mixtures; a site that is not searched has no gate.

    Dropout is left out: a search compares ranks, and noise beside the mixture's only blurs them.
    """

    qkv: Tensor
    q_bias: Tensor | None
    k_bias: Tensor | None
    proj: Tensor
    out_bias: Tensor | None

    def __init__(
        self,
        view: AttentionView,
        parts: Factors,
        mixture: Mixture,
        rows: Mapping[str, int],
        between: nn.Module | None = None,
    ) -> None:
        """Take factors whose searched products are spectra.

        Args:
            view: of the dense attention.
            parts: the factors.
            mixture: gates them.
            rows: of the mixture, for those of `qk` and `vo` that are searched.
            between: what stands between queries, keys and scores.
        """
        super().__init__()
        tensors = put_together(parts)
        self.num_heads = parts.k.shape[0]
        self.head_dim, self.value_dim = view.head_width, view.value_width
        self.scale = view.scale
        self.columns = (parts.k.shape[-1], parts.v.shape[-1])
        self.rows = (rows.get("qk"), rows.get("vo"))
        self.register_buffer("qkv", tensors["qkv.weight"])
        self.register_buffer("q_bias", tensors.get("q_bias"))
        self.register_buffer("k_bias", tensors.get("k_bias"))
        self.between = between
        self.register_buffer("proj", tensors["proj.weight"])
        self.register_buffer("out_bias", tensors.get("proj.bias"))
        # In a list, so that the mixture is no submodule and stays out of the model's state.
        self._mixture = [mixture]

    @property
    def width(self) -> int:
        return self.qkv.shape[1]

    @property
    def score_width(self) -> int:
        return self.columns[0]

    @property
    def value_width(self) -> int:
        return self.columns[1]

    @property
    def dropout(self) -> float:
        return 0.0

    def read(self, tensors: Mapping[str, Tensor]) -> Heads:
        raise NotImplementedError("a search has no parameters")

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> gated queries, keys and values, each (B, N, H, its columns)."""
        batch, tokens, _ = x.shape
        score, value = (self.num_heads * columns for columns in self.columns)
        q, k, v = F.linear(x, self.qkv).split((score, score, value), dim=-1)
        if self.q_bias is not None:
            # In its own type: autocast would take both, and all that follows, to float32.
            q = q + self.q_bias.to(q.dtype)
        if self.k_bias is not None:
            k = k + self.k_bias.to(k.dtype)
        q, k, v = (t.view(batch, tokens, self.num_heads, -1) for t in (q, k, v))
        return self._gated(q, 0), k, v

    def finish(self, heads: Tensor) -> Tensor:
        """(B, N, H, columns), what the heads took from the values -> (B, N, D)."""
        return F.linear(self._gated(heads, 1).flatten(2), self.proj, self.out_bias)

    def _gated(self, x: Tensor, site: int) -> Tensor:
        row = self.rows[site]
        if row is None:
            return x
        return x * self._mixture[0].gates[row, : self.columns[site]].to(x.dtype)


class SupernetLinear(LinearStandIn):
    """A linear layer as one gated product: (B, ..., I) -> (B, ..., O)."""

    first: Tensor
    last: Tensor
    bias: Tensor | None

    def __init__(
        self, spectrum: Spectrum, columns: int, bias: Tensor | None, mixture: Mixture, row: int
    ) -> None:
        super().__init__()
        self.register_buffer("first", spectrum.left[0, :, :columns].mT.contiguous())
        self.register_buffer("last", spectrum.right[0, :, :columns].contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.in_features, self.out_features = self.first.shape[1], self.last.shape[0]
        self.row = row
        # In a list, so that the mixture is no submodule and stays out of the model's state.
        self._mixture = [mixture]

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.linear(x, self.first)
        gate = self._mixture[0].gates[self.row, : hidden.shape[-1]]
        return F.linear(hidden * gate.to(hidden.dtype), self.last, self.bias)
