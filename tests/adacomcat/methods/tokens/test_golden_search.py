"""A search step of the published DiffRate implementation; see the folder's README."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from adacomcat.budget import Budget
from adacomcat.config import SearchConfig
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.macs import by_width, expected, published
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.methods.tokens.rates import Rates
from adacomcat.search.penalty import penalized

BESIDE = Path(__file__).parents[5] / "shared" / "golden"
FILE = Path(os.environ.get("ADACOMCAT_GOLDEN", BESIDE)) / "diffrate" / "diffrate.npz"
HEADS, GRANULARITY = 3, 4
"""As the folder's README has them, where its tensors say no other."""

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"no reference numbers at {FILE}")


def families():
    """Vision transformers with a search step in the file."""
    if not FILE.exists():
        return []
    with np.load(FILE) as arrays:
        named = [name.split("/")[0] for name in arrays.files if name.endswith("/train/logits")]
        return [n for n in named if f"{n}/w/patch_embed.proj.weight" in arrays.files]


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def under(golden, prefix):
    return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}


def dense_model(weights, heads):
    """A plain vision transformer in the sizes of its weights."""
    embed, _, patch, _ = weights["patch_embed.proj.weight"].shape
    side = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    pooled = "fc_norm.weight" in weights
    model = timm.create_model(
        "vit_tiny_patch16_224",
        embed_dim=embed,
        depth=sum(name.endswith("attn.qkv.weight") for name in weights),
        num_heads=heads,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / embed,
        num_classes=weights["head.weight"].shape[0],
        img_size=side * patch,
        patch_size=patch,
        global_pool="avg" if pooled else "token",
        fc_norm=pooled,
    )
    model.load_state_dict(weights, strict=True)
    return model.eval()


class Step:
    """The published step, done by us: frozen model, given logits, no noise."""

    def __init__(self, golden, family):
        self.expected = under(golden, f"{family}/train/")
        self.images = golden.get(f"{family}/input", golden["deit/input"])
        geometry = golden.get(f"{family}/geometry")
        heads = HEADS if geometry is None else int(geometry[2])
        model = dense_model(under(golden, f"{family}/w/"), heads)
        self.method = method = DiffRate(model, self.config(model.patch_embed.num_patches))
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
        self.entropy = F.cross_entropy(self.logits, self.expected["labels"])
        self.macs = method.expected_cost("macs")

    def config(self, patches):
        """The published choices, with as many candidates as there are logits."""
        logits = under(self.expected, "rate_param/").values()
        candidates = max(len(rows) for rows in logits)
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


@pytest.fixture(scope="module", params=families())
def step(golden, request):
    return Step(golden, request.param)


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=atol, rtol=0)


def test_golden_diffrate_search_counts(step):
    method = step.method
    kept = dict(zip(method.rows, method.counts.counts(), strict=True))
    for kind in ("prune", "merge"):
        expected = step.expected[f"{kind}_kept"].int().tolist()
        sites = [method.form.site(block, kind) for block in range(method.form.depth)]
        assert [kept.get(site, method.form.tokens) for site in sites] == expected


def test_golden_diffrate_search_forward(step):
    close(step.logits, step.expected["logits"], 1e-5)
    close(step.entropy, step.expected["ce"], 1e-6)
    assert step.macs.item() + step.rest == float(step.expected["flops"])
    close(step.loss(), step.expected["loss"], 1e-6)


def test_golden_diffrate_search_tokens(step):
    """The live tokens of every block, in any order: ours sorts only where something is dropped."""
    container = step.method.model.get_submodule(step.method.form.container)
    for block, state in enumerate(container.states(step.x)):
        x, size, mask = (step.expected[f"block{block}/{name}"] for name in ("x", "size", "mask"))
        assert torch.equal(state.mask.sum(1), mask.sum(1))
        for image in range(len(x)):
            theirs = x[image][mask[image] == 1]
            same = torch.cdist(state.x[image, : state.live], theirs).argmin(1)
            assert torch.equal(same.sort().values, torch.arange(len(theirs)))
            # Tokens are larger than logits: in float32 so much is their rounding.
            close(state.x[image, : state.live], theirs[same], 5e-5)
            sizes = size[image][mask[image] == 1][same]
            close(state.sizes[image, : state.live], sizes, 1e-5)


def test_golden_diffrate_search_gradients(step):
    step.compare("grad_ce", step.gradient(step.entropy), atol=1e-6)
    step.compare("grad_flops_raw", step.gradient(step.macs), atol=1e-3, rtol=1e-6)
    step.compare("grad_total_lambda5", step.gradient(step.loss()), atol=1e-6)


def test_golden_diffrate_search_leaves_other_blocks_alone(step):
    """What has no site with us has no gradient with them."""
    named = {f"{site}_ddp.selected_probability" for site in step.method.rows}
    others = under(step.expected, "grad_total_lambda5/").keys() - named
    assert others
    assert not any(step.expected[f"grad_total_lambda5/{name}"].any() for name in others)


def test_golden_diffrate_search_adamw_step(step):
    logits = torch.nn.Parameter(step.method.counts.logits.detach().clone())
    logits.grad = step.gradient(step.loss())
    torch.optim.AdamW([logits], lr=0.01, weight_decay=0.0).step()
    step.compare("after_adamw", logits.detach(), atol=1e-6)
