import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.space import Candidate, Site
from adacomcat.methods.lowrank.supernet import Mixture
from adacomcat.testing.models import tiny_images, tiny_vit


class CandidateByCandidate(nn.Module):
    """A site's mixture written out: one truncated product a candidate, summed with its weight."""

    def __init__(self, products, site, weights):
        super().__init__()
        u, s, vh = np.linalg.svd(products)
        ranks = [c.rank // site.groups for c in site.candidates]
        truncated = [u[..., :r] * s[..., None, :r] @ vh[..., :r, :] for r in ranks]
        self.truncated = [torch.from_numpy(t).float() for t in truncated]
        self.weights = weights

    def forward(self, apply):
        return sum(w * apply(t) for w, t in zip(self.weights, self.truncated, strict=False))


class PlainAttention(nn.Module):
    def __init__(self, dense, sites, weights):
        super().__init__()
        heads, width = dense.num_heads, dense.proj.out_features
        wq, wk, wv = dense.qkv.weight.detach().double().numpy().reshape(3, heads, -1, width)
        bq, _, bv = dense.qkv.bias.detach().double().numpy().reshape(3, heads, -1)
        wo = dense.proj.weight.detach().double().numpy().T.reshape(heads, -1, width)
        # The query bias is a row of Wq for an input that is always one.
        wq = np.concatenate([wq.transpose(0, 2, 1), bq[:, None]], 1)
        self.scores = CandidateByCandidate(wq @ wk, sites["qk"], weights["qk"])
        self.values = CandidateByCandidate(wv.transpose(0, 2, 1) @ wo, sites["vo"], weights["vo"])
        self.scale = dense.scale
        moved = torch.from_numpy(np.einsum("hd,hdo->o", bv, wo)).float()
        self.bias = dense.proj.bias.detach() + moved

    def forward(self, x, attn_mask=None, is_causal=False):
        with_one = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        scores = self.scores(lambda w: torch.einsum("bnc,hcd,bmd->bhnm", with_one, w, x))
        mixed = torch.einsum("bhnm,bmc->bhnc", (scores * self.scale).softmax(-1), x)
        return self.values(lambda w: torch.einsum("bhnc,hcd->bnd", mixed, w)) + self.bias


class PlainLinear(nn.Module):
    def __init__(self, dense, site, weights):
        super().__init__()
        weight = dense.weight.detach().double().numpy().T
        self.mixture = CandidateByCandidate(weight, site, weights)
        self.bias = dense.bias.detach()

    def forward(self, x):
        return self.mixture(lambda w: x @ w) + self.bias


def plain_supernet(model, sites, weights):
    """A copy of the dense model with every site replaced by its plain mixture."""
    model = copy.deepcopy(model)
    for name, group in itertools.groupby(sites, lambda site: site.module):
        group = list(group)
        dense = model.get_submodule(name)
        if group[0].attention:
            by_kind = {site.kind: site for site in group}
            gates = {site.kind: weights[site.name] for site in group}
            model.set_submodule(name, PlainAttention(dense, by_kind, gates))
        else:
            model.set_submodule(name, PlainLinear(dense, group[0], weights[group[0].name]))
    return model


@pytest.mark.parametrize("build", [tiny_vit, lambda: tiny_vit("deit_tiny_distilled_patch16_224")])
def test_one_product_equals_the_candidates_one_by_one(build):
    model = build()
    method = LowRank(copy.deepcopy(model), LowRankConfig())
    mixture = method.mixture
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        mixture.logits.copy_(torch.randn(mixture.logits.shape, generator=source))
    alphas = {
        site.name: mixture.logits.detach()[row, : len(site.candidates)].clone().requires_grad_()
        for row, site in enumerate(method.sites)
    }
    temperature = 0.7
    weights = {name: (alpha / temperature).softmax(0) for name, alpha in alphas.items()}
    images, labels = tiny_images(4), torch.arange(4)
    expected = plain_supernet(model, method.sites, weights)(images)
    F.cross_entropy(expected, labels).backward()
    method.prepare_()
    method.sample_(temperature, None)
    logits = method.model(images)
    F.cross_entropy(logits, labels).backward()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    largest = mixture.logits.grad.abs().max()
    for row, (name, alpha) in enumerate(alphas.items()):
        gradient = mixture.logits.grad[row, : len(alpha)]
        assert torch.allclose(gradient / largest, alpha.grad / largest, rtol=0, atol=1e-4), name


def sites(*ranks, groups=2):
    """A site for each tuple of ranks; nominal ranks are one more."""
    return [
        Site(
            f"blocks.{i}.qk",
            "qk",
            f"blocks.{i}.attn",
            groups,
            16,
            16,
            16,
            5,
            tuple(Candidate(rank, rank + 1) for rank in menu),
            pairs=25,
        )
        for i, menu in enumerate(ranks)
    ]


def mixture_of(logits, menu=(2, 6, 8, 16)):
    mixture = Mixture(sites(*[menu] * len(logits)))
    with torch.no_grad():
        mixture.logits.copy_(torch.as_tensor(logits))
    return mixture


def test_gates_add_the_weights_of_the_ranks_that_reach_a_column():
    mixture = mixture_of([[0.3, -1.0, 0.5, 2.0]])
    mixture.sample_(0.8, torch.Generator().manual_seed(1))
    weights = mixture.weights[0].tolist()
    assert sum(weights) == pytest.approx(1)
    for column, gate in enumerate(mixture.gates[0].tolist()):
        reaching = [w for w, rank in zip(weights, (2, 6, 8, 16), strict=True) if rank // 2 > column]
        assert gate == pytest.approx(sum(reaching))


def test_expected_cost_counts_nominal_ranks():
    mixture = Mixture(sites((2, 4), (2, 6, 16)))
    mixture.sample_(1.0, torch.Generator().manual_seed(0))
    for unit, costs in (("params", lambda r: 32 * r), ("macs", lambda r: 32 * r * 5 + 25 * r)):
        expected = sum(
            weight * costs(rank + 1)
            for row, menu in enumerate([(2, 4), (2, 6, 16)])
            for weight, rank in zip(mixture.weights[row].tolist(), menu, strict=False)
        )
        assert mixture.expected_costs(unit).sum().item() == pytest.approx(expected)


def test_a_seed_gives_one_draw():
    mixture = mixture_of(torch.zeros(3, 4))

    def drawn(seed):
        mixture.sample_(1.0, torch.Generator().manual_seed(seed))
        return mixture.weights.detach()

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_the_largest_weight_falls_as_softmax_says(temperature):
    """The Gumbel-max property, at any temperature (Maddison et al., arXiv 1611.00712)."""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    mixture = mixture_of(logits.expand(50, 4))
    source = torch.Generator().manual_seed(0)
    counts = np.zeros(4)
    for _ in range(100):
        mixture.sample_(temperature, source)
        counts += np.bincount(mixture.weights.argmax(-1), minlength=4)
    expected = logits.softmax(0).double().numpy()
    assert stats.chisquare(counts, counts.sum() * expected / expected.sum()).pvalue > 1e-3


def test_temperature_goes_from_even_to_one_of_them():
    mixture = mixture_of(torch.zeros(20, 4))
    for temperature, smallest, largest in ((1e-3, 0.99, 1.0), (1e3, 0.25, 0.26)):
        mixture.sample_(temperature, torch.Generator().manual_seed(0))
        peaks = mixture.weights.amax(-1)
        assert peaks.min() >= smallest
        assert peaks.max() <= largest


def test_methods_side_by_side_keep_their_own_temperature():
    one, other = (LowRank(tiny_vit(), LowRankConfig()) for _ in range(2))
    images = tiny_images()
    for method in (one, other):
        with torch.no_grad():
            method.mixture.logits.copy_(torch.arange(method.mixture.logits.shape[1]))
        method.prepare_()
    one.sample_(0.1, None)
    alone = one.model(images)
    other.sample_(5.0, None)
    assert torch.equal(one.model(images), alone)
    assert not torch.allclose(other.model(images), alone, atol=1e-3)


def test_candidates_out_of_reach_get_nothing():
    mixture = Mixture(sites((2, 4, 8), (4, 6)))
    mixture.limit_([4, 2])
    mixture.sample_(1.0, torch.Generator().manual_seed(0))
    usable = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(mixture.weights > 0, usable)
    assert torch.equal(mixture.log_probabilities() > -torch.inf, usable)
    mixture.expected_costs("params").sum().backward()
    assert mixture.logits.grad.isfinite().all()
    assert not mixture.logits.grad[~usable].any()
