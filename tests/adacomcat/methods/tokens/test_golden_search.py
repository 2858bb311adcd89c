"""A search step of the published DiffRate implementation; see the folder's README."""

import functools

import pytest
import torch
import torch.nn.functional as F

from adacomcat.budget import Budget
from adacomcat.config import SearchConfig
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.macs import by_width, expected, published
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of
from adacomcat.search.penalty import penalized
from adacomcat.testing.golden import Numbers, depth_of, diffrate_vit, images_of, vit_families

GOLDEN = Numbers.read("diffrate", "diffrate.npz")
FAMILIES = [name for name in vit_families(GOLDEN) if GOLDEN.below(f"{name}/train/")]
BLOCKS = [(name, i) for name in FAMILIES for i in range(depth_of(GOLDEN.below(f"{name}/w/")))]
GRANULARITY = 4
"""As the folder's README has it, where the logits of a search say no other."""

pytestmark = pytest.mark.skipif(not GOLDEN, reason=GOLDEN.absent)


class Step:
    """The published step, done by us: frozen model, given logits, no noise."""

    def __init__(self, family):
        self.expected = GOLDEN.below(f"{family}/train/")
        self.images = images_of(GOLDEN, family)
        model = diffrate_vit(GOLDEN, family)
        self.method = method = DiffRate(model, self.config(tokens_of(model).patches))
        with torch.no_grad():
            for site, row in method.rows.items():
                method.counts.logits[row].copy_(self.of_site("rate_param", site))
        form = method.form
        dense = Rates((None,) * form.depth, (None,) * form.depth).steps(form.tokens)
        self.dense = published(model, form, dense)
        method.prepare_()
        method.sample_(1.0, None)
        without_sites = [(None, None)] * form.depth
        blocks = expected(by_width(method.costs), form, method.counts.kept, without_sites, "both")
        self.rest = self.dense - int(blocks)
        self.x = model._pos_embed(model.patch_embed(self.images))
        self.logits = model(self.images)
        self.macs = method.expected_cost("macs")

    @property
    def entropy(self):
        return F.cross_entropy(self.logits, self.expected["labels"])

    def config(self, patches):
        """The published choices, with as many candidates as there are logits."""
        logits = self.expected.below("rate_param/").values()
        candidates = max((len(rows) for rows in logits), default=-(-patches // GRANULARITY))
        as_told = -(-patches // GRANULARITY) == candidates
        granularity = GRANULARITY if as_told else -(-patches // candidates)
        return DiffRateConfig(
            granularity=granularity,
            sizes="reference",
            mask_gradient="reference",
            min_gradient="both",
            macs="published",
        )

    def of_site(self, kind, site):
        return self.expected[f"{kind}/{site}_ddp.selected_probability"]

    def loss(self):
        target = float(self.expected["target_gflops"]) * 1e9
        budget = Budget("macs", target - self.rest, self.rest, self.dense)
        config = SearchConfig(penalty="squared", penalty_weight=5.0, penalty_unit=1e9)
        return penalized(self.entropy, self.macs, budget, config)

    def gradient(self, value):
        return torch.autograd.grad(value, self.method.counts.logits, retain_graph=True)[0]

    def compare(self, kind, rows, atol, rtol=0.0):
        for site, row in self.method.rows.items():
            reference = self.of_site(kind, site)
            torch.testing.assert_close(rows[row], reference, atol=atol, rtol=rtol)


@functools.lru_cache(maxsize=1)
def step_of(family):
    """The step of tests in a row, done once."""
    return Step(family)


@pytest.fixture(params=FAMILIES)
def step(request):
    return step_of(request.param)


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=atol, rtol=0)


@pytest.mark.parametrize("kind", ["prune", "merge"])
def test_golden_diffrate_search_counts(step, kind):
    method = step.method
    kept = dict(zip(method.rows, method.counts.counts(), strict=True))
    expected = step.expected[f"{kind}_kept"].int().tolist()
    sites = [method.form.site(block, kind) for block in range(method.form.depth)]
    assert [kept.get(site, method.form.tokens) for site in sites] == expected


def test_golden_diffrate_search_logits(step):
    close(step.logits, step.expected["logits"], 1e-5)


def test_golden_diffrate_search_entropy(step):
    close(step.entropy, step.expected["ce"], 1e-6)


def test_golden_diffrate_search_macs(step):
    assert step.macs.item() + step.rest == float(step.expected["flops"])


def test_golden_diffrate_search_loss(step):
    close(step.loss(), step.expected["loss"], 1e-6)


@pytest.mark.parametrize("kind", ["x", "size"])
@pytest.mark.parametrize(("family", "block"), BLOCKS)
def test_golden_diffrate_search_tokens(family, block, kind):
    """The live tokens of every block, in any order: ours sorts only where something is dropped."""
    step = step_of(family)
    container = step.method.model.get_submodule(step.method.form.container)
    state = list(container.states(step.x))[block]
    golden = step.expected.below(f"block{block}/")
    x, mask, wanted = golden["x"], golden["mask"], golden[kind]
    assert torch.equal(state.mask.sum(1), mask.sum(1))
    for image in range(len(x)):
        live = mask[image] == 1
        same = torch.cdist(state.x[image, : state.live], x[image][live]).argmin(1)
        assert torch.equal(same.sort().values, torch.arange(int(live.sum())))
        found = state.x if kind == "x" else state.sizes
        # Tokens are larger than logits: in float32 so much is their rounding.
        atol = 5e-5 if kind == "x" else 1e-5
        close(found[image, : state.live], wanted[image][live][same], atol)


def test_golden_diffrate_search_gradient_of_the_entropy(step):
    step.compare("grad_ce", step.gradient(step.entropy), atol=1e-6)


def test_golden_diffrate_search_gradient_of_the_macs(step):
    step.compare("grad_flops_raw", step.gradient(step.macs), atol=1e-3, rtol=1e-6)


def test_golden_diffrate_search_gradient_of_the_loss(step):
    step.compare("grad_total_lambda5", step.gradient(step.loss()), atol=1e-6)


def test_golden_diffrate_search_leaves_other_blocks_alone(step):
    """What has no site with us has no gradient with them."""
    named = {f"{site}_ddp.selected_probability" for site in step.method.rows}
    gradients = step.expected.below("grad_total_lambda5/")
    others = gradients.keys() - named
    if not others:
        pytest.skip(f"no {gradients.prefix}<name> of other blocks in {gradients.source}")
    assert not any(gradients[name].any() for name in others)


def test_golden_diffrate_search_adamw_step(step):
    logits = torch.nn.Parameter(step.method.counts.logits.detach().clone())
    logits.grad = step.gradient(step.loss())
    torch.optim.AdamW([logits], lr=0.01, weight_decay=0.0).step()
    step.compare("after_adamw", logits.detach(), atol=1e-6)
