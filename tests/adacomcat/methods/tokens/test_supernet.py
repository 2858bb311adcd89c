import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.linear import LowRankLinear
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.tokens import supernet
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.counts import Counts
from adacomcat.methods.tokens.rates import Rates
from adacomcat.methods.tokens.supernet import SearchBlocks
from adacomcat.models.registry import tokens_of
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_caformer, tiny_images, tiny_vit

FACTORIZED = (LowRankAttention, LowRankLinear)


def low_rank_vit():
    model = tiny_vit(depth=4)
    method = LowRank(model, LowRankConfig())
    half = {s.name: s.candidates[len(s.candidates) // 2].rank for s in method.sites}
    method.commit_(Plan("lowrank", half))
    return model


MODELS = {
    "deit": lambda: tiny_vit(depth=4),
    "distilled": lambda: tiny_vit("deit_tiny_distilled_patch16_224", depth=4),
    "registers": lambda: tiny_vit(depth=4, reg_tokens=2),
    "layer scale": lambda: tiny_vit(depth=4, init_values=0.5, qk_norm=True),
    "pooled": lambda: tiny_vit(depth=4, global_pool="avg", fc_norm=True),
    "no class token": lambda: tiny_vit(depth=4, global_pool="avg", fc_norm=True, class_token=False),
    "low-rank": low_rank_vit,
    "caformer": tiny_caformer,
}


def images_of(model, count=4, seed=1):
    return tiny_images(count, side=64 if hasattr(model, "stages") else 16, seed=seed)


def set_counts_(counts, patches):
    """Let every site expect nearly that number of patches, and the others be possible."""
    with torch.no_grad():
        counts.logits.zero_()
        for row, number in enumerate(patches):
            counts.logits[row, counts.candidates.index(number)] = 20.0
    counts.sample_()
    # The others' share takes some over the number.
    assert all(
        k - counts.prefix - n in (0, 1) for k, n in zip(counts.counts(), patches, strict=True)
    )


def searchable_(model, patches, sizes="exact", mask_gradient="bounded"):
    """Put a search where a model has its blocks: prune and merge sites in all but the first."""
    form = tokens_of(model)
    sites = 1 if form.merges_only else 2
    counts = Counts(sites * (form.depth - 1), form, 1)
    set_counts_(counts, patches)
    rows = iter(range(len(patches)))
    places = [(None, None)]
    for _ in range(form.depth - 1):
        places.append((None, next(rows)) if form.merges_only else (next(rows), next(rows)))
    blocks = model.get_submodule(form.container)
    config = DiffRateConfig(sizes=sizes, mask_gradient=mask_gradient)
    new = SearchBlocks(blocks.children(), counts, form, config, places)
    model.set_submodule(form.container, new)
    return new, counts


def committed_(model, search, counts):
    kept = counts.counts()
    pick = [[None if p[kind] is None else kept[p[kind]] for p in search.places] for kind in (0, 1)]
    rates = Rates(tuple(pick[0]), tuple(pick[1]))
    blocks = TokenBlocks(search.children(), rates, search.form, "exact")
    model.set_submodule(search.form.container, blocks)


def patches_of(name, case):
    merges, pairs = case
    return merges if name == "caformer" else pairs


CASES = {
    "falling": ((12, 8, 4), (13, 11, 9, 7, 5, 3)),
    "some change nothing": ((15, 15, 6), (16, 12, 14, 13, 9, 9)),
    "few left": ((3, 2, 2), (4, 2, 2, 1, 1, 1)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_search_computes_what_the_committed_model_will(name, case):
    model = MODELS[name]()
    images = images_of(model)
    dense = model(images)
    search, counts = searchable_(model, patches_of(name, CASES[case]))
    searched = model(images)
    committed_(model, search, counts)
    expected = model(images)
    # Dead tokens keep a millionth of the attention.
    torch.testing.assert_close(searched, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(searched, dense, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_counts_that_drop_nothing_leave_the_dense_model(name):
    model = MODELS[name]()
    images = images_of(model)
    dense = model(images)
    searchable_(model, (16,) * (3 if name == "caformer" else 6))
    assert torch.equal(model(images), dense)


class Replay:
    """A function that gives, from then on, what it gave in its first calls, in turn."""

    def __init__(self, function):
        self.function, self.results, self.calls = function, [], None

    def __call__(self, *args):
        if self.calls is None:
            self.results.append(self.function(*args))
            return self.results[-1]
        self.calls += 1
        return self.results[(self.calls - 1) % len(self.results)]


@pytest.mark.parametrize("name", ["deit", "no class token", "caformer"])
def test_gradients_are_those_of_masks_between_dead_and_alive(name, monkeypatch):
    """Against differences: what is straight through in a search is added here, so that it moves."""
    model = MODELS[name]()
    images = images_of(model, 2)
    patches = patches_of(name, CASES["falling"])
    search, counts = searchable_(model, patches, mask_gradient="reference")
    # The mean by sizes divides by their sum as it is, so that its gradient is no difference.
    search.form = replace(search.form, pooled=False)
    # Which tokens go where has no gradient: here it stays as it is.
    decisions = {called: Replay(getattr(supernet, called)) for called in ("keep", "match")}
    for called, function in decisions.items():
        monkeypatch.setattr(supernet, called, function)

    def value():
        return (model(images).mean(0) * torch.linspace(-1, 1, 10)).sum()

    (slope,) = torch.autograd.grad(value(), counts.survival)
    for function in decisions.values():
        function.calls = 0
    monkeypatch.setattr(supernet, "through", lambda hard, soft: hard + soft)
    source = torch.Generator().manual_seed(0)
    for _ in range(3):
        way = torch.randn(counts.survival.shape, generator=source)
        values = []
        for step in (3e-3, -3e-3):
            counts.survival = step * way
            with torch.no_grad():
                values.append(value().item())
        difference = (values[0] - values[1]) / 6e-3
        assert difference == pytest.approx((slope * way).sum().item(), rel=0.02, abs=2e-3)
    assert (slope != 0).sum() > 10


def attention_of(masked, q, k, v, sizes, live):
    """What attention gives, and its gradient with respect to the masks, for each query and key."""
    mask = (torch.arange(k.shape[2]) < live).float().expand(1, -1).clone().requires_grad_()
    state = supernet.State(k, sizes, mask, live, None, None)
    outputs = masked(q, k, state) @ v
    grads = [torch.autograd.grad(y, mask, retain_graph=True)[0][0] for y in outputs[0, 0, :, 0]]
    return outputs[0, 0, :, 0].detach(), torch.stack(grads)


@pytest.mark.parametrize("strength", [1.0, 5.0])
def test_a_bounded_gradient_is_what_the_whole_return_of_a_token_changes(strength):
    """Against attention with that token and without it, of a query that lives itself."""
    tokens, live = 12, 7
    source = torch.Generator().manual_seed(0)
    q, k = (strength * torch.randn(1, 1, tokens, 8, generator=source) for _ in range(2))
    v = torch.randn(1, 1, tokens, 1, generator=source)
    sizes = 1 + torch.rand(1, tokens, generator=source)
    found, slopes = attention_of(supernet._bounded_attention, q, k, v, sizes, live)
    scores = (q @ k.mT + sizes.log()[:, None, None])[0, 0]
    first = scores[:, :live].softmax(-1) @ v[0, 0, :live, 0]
    torch.testing.assert_close(found[:live], first[:live])
    for token in range(live, tokens):
        keys = [*range(live), token]
        after = scores[:, keys].softmax(-1) @ v[0, 0, keys, 0]
        torch.testing.assert_close(
            slopes[:live, token], (after - first)[:live], atol=1e-5, rtol=1e-4
        )


def test_a_query_that_looks_at_one_dead_token_alone_has_a_bounded_gradient():
    """The slope at a mask of zero is hundreds of thousands there: it drowned the penalty."""
    k = torch.zeros(1, 1, 4, 1)
    k[..., 3, 0] = 30.0
    q, v = torch.ones(1, 1, 4, 1), torch.tensor([1.0, 0.0, 0.0, -1.0]).view(1, 1, 4, 1)
    sizes = torch.ones(1, 4)
    _, bounded = attention_of(supernet._bounded_attention, q, k, v, sizes, 3)
    _, published = attention_of(supernet._reference_attention, q, k, v, sizes, 3)
    assert bounded[0].abs().max() < 2
    assert published[0].abs().max() > 1e5


@pytest.mark.parametrize("sizes", ["exact", "reference"])
@pytest.mark.parametrize("name", ["deit", "pooled", "caformer"])
@torch.no_grad()
def test_sizes_are_never_below_one(name, sizes):
    """Tokens that are opposites merge: their similarity is below zero."""
    model = MODELS[name]()
    search, counts = searchable_(
        model, (4, 3, 2) if name == "caformer" else (16, 3, 16, 2, 16, 1), sizes
    )
    shape = (4, search.form.tokens, 64 if name == "caformer" else 32)
    x = 100 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pairs = x[:, 1::2].shape[1]
    x[:, 1::2] = -x[:, ::2][:, :pairs]
    for state in search.states(x):
        assert state.sizes.min() >= 1
        assert state.x.isfinite().all()
    assert state.sizes.max() > 1


@torch.no_grad()
def test_the_live_tokens_are_the_first_and_as_many_as_the_counts():
    model = MODELS["deit"]()
    search, counts = searchable_(model, (13, 11, 12, 12, 5, 8))
    kept = counts.counts()
    live = [17, kept[1], kept[1], kept[4]]
    x = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(0))
    for state, expected in zip(search.states(x), live, strict=True):
        assert state.live == expected
        assert torch.equal(state.mask, (torch.arange(17) < expected).float().expand(3, -1))
        assert torch.equal(state.place.sort(1).values, torch.arange(17).expand(3, -1))


def test_no_class_token_asks_the_tokens_that_live():
    """`reference` asks the dead ones too, as the published code does."""
    outputs = []
    for sizes in ("exact", "reference"):
        model = tiny_caformer()
        searchable_(model, (9, 6, 3), sizes)
        outputs.append(model(images_of(model)))
    assert not torch.allclose(*outputs, atol=1e-3)


def test_the_state_of_the_model_is_that_of_its_blocks():
    model = MODELS["deit"]()
    keys = list(model.state_dict())
    searchable_(model, CASES["falling"][1])
    assert list(model.state_dict()) == keys


def test_a_searchable_model_is_copied_with_its_counts():
    model = MODELS["deit"]()
    images = images_of(model)
    search, counts = searchable_(model, CASES["falling"][1])
    before = model(images)
    pair = copy.deepcopy(nn.ModuleList([model, counts]))
    assert torch.equal(pair[0](images), before)
    set_counts_(pair[1], (16,) * 6)
    assert not torch.allclose(pair[0](images), before)
    assert torch.equal(model(images), before)


@pytest.mark.parametrize("name", ["deit", "pooled", "caformer"])
def test_bfloat16_gives_nearly_the_same_and_gradients(name):
    model = MODELS[name]()
    images = images_of(model)
    _, counts = searchable_(model, patches_of(name, CASES["falling"]))
    exact = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images)
    assert outputs.isfinite().all()
    difference = (outputs.float() - exact).norm() / exact.norm()
    assert difference < 0.3
    outputs.float().square().sum().backward()
    assert counts.logits.grad.isfinite().all() and counts.logits.grad.any()
