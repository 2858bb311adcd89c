"""MACs by the formula of the DiffRate paper, as its implementation has them; see the folder's
README."""

import functools
import json

import numpy as np
import pytest
import timm
import torch

from adacomcat.methods.tokens.counts import Counts
from adacomcat.methods.tokens.macs import block_costs, by_width, expected, published
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of
from adacomcat.testing.golden import Numbers, golden_folder

GOLDEN = Numbers.read("diffrate", "diffrate.npz")
TABLE, SEARCHES = GOLDEN.below("flops_table/"), GOLDEN.below("flops_search/")
RATES = golden_folder() / "diffrate" / "published_rates.json"
MODELS = {
    "ViT-T-DeiT": "deit_tiny_patch16_224",
    "ViT-S-DeiT": "deit_small_patch16_224",
    "ViT-B-DeiT": "deit_base_patch16_224",
    "ViT-B-MAE": "vit_base_patch16_224",
    "ViT-L-MAE": "vit_large_patch16_224",
    "ViT-H-MAE": "vit_huge_patch14_224",
    "CAFormer-S36": "caformer_s36",
}

pytestmark = pytest.mark.skipif(
    not GOLDEN and not RATES.is_file(), reason=f"no reference numbers in {RATES.parent}"
)


def rates_of(name):
    """Target -> published counts of a model; none where the file lacks it."""
    return json.loads(RATES.read_text()).get(name, {}) if RATES.is_file() else {}


def cases():
    """(model, target) of all published rates and of the table of MACs, and every dense model."""
    rates = json.loads(RATES.read_text()) if RATES.is_file() else {}
    for name in sorted({*TABLE.folders(), *rates}):
        targets = {key.split("/")[0] for key in TABLE.below(f"{name}/")} | {*rates.get(name, {})}
        yield from ((name, target) for target in sorted({"dense", *targets}))


@functools.cache
def model_of(name):
    """Without memory: only its shapes count."""
    if name not in MODELS:
        pytest.skip(f"no formula for {name}, of the table in {TABLE.source}")
    options = {"global_pool": "avg", "fc_norm": True} if name.endswith("MAE") else {}
    with torch.device("meta"):
        model = timm.create_model(MODELS[name], num_classes=1000, **options)
    return model, tokens_of(model)


def steps_of(name, target, form):
    if target == "dense":
        rates = Rates((None,) * form.depth, (None,) * form.depth)
    else:
        found = rates_of(name).get(target)
        if found is None:
            pytest.skip(f"no counts of {name} at {target} in {RATES}")
        # CAFormer's lists go on with the fourth stage, which keeps all.
        prune, merge = (
            (found[kind] or [None] * form.depth)[: form.depth] for kind in ("prune", "merge")
        )
        rates = Rates(tuple(prune), tuple(merge))
    return rates.steps(form.tokens)


def terms(name, steps):
    """The formula of the specification written out, in the order in which it is added up."""
    if name == "CAFormer-S36":
        yield from caformer_terms(steps)
        return
    width, patch = {
        "ViT-T": (192, 16),
        "ViT-S": (384, 16),
        "ViT-B": (768, 16),
        "ViT-L": (1024, 16),
        "ViT-H": (1280, 14),
    }[name[:5]]
    yield steps[0].before * width * 3 * patch**2
    for step in steps:
        yield 4 * step.before * width**2 + 2 * step.before**2 * width
        yield 8 * step.after * width**2
    yield width * 1000


def caformer_terms(steps):
    for tokens, inputs, width, kernel in (
        (56**2, 3, 64, 7),
        (28**2, 64, 128, 3),
        (14**2, 128, 320, 3),
        (7**2, 320, 512, 3),
    ):
        yield tokens * width * kernel**2 * inputs
    for tokens, width, blocks in ((56**2, 64, 3), (28**2, 128, 12)):
        yield blocks * (12 * tokens * width**2 + 98 * tokens * width)
    for step in steps:
        yield 4 * step.before * 320**2 + 2 * step.before**2 * 320
        yield 8 * step.after * 320**2
    yield 3 * (12 * 49 * 512**2 + 2 * 49**2 * 512)
    yield 512 * 1000 * 8


every_rate = pytest.mark.parametrize(("name", "target"), list(cases()))


@every_rate
def test_golden_diffrate_macs_by_the_formula(name, target):
    model, form = model_of(name)
    steps = steps_of(name, target, form)
    assert published(model, form, steps) == sum(terms(name, steps))


@every_rate
def test_golden_diffrate_macs_of_published_rates(name, target):
    model, form = model_of(name)
    steps = steps_of(name, target, form)
    number = float(TABLE[f"{name}/{target}"])
    # Theirs is a sum in float32, which holds seven digits.
    assert published(model, form, steps) == pytest.approx(number, rel=3e-7)
    if name != "CAFormer-S36":
        assert functools.reduce(np.add, map(np.float32, terms(name, steps))) == number


@pytest.mark.parametrize(("name", "target"), [case for case in cases() if case[1] != "dense"])
def test_golden_diffrate_tokens_of_published_rates(name, target):
    _, form = model_of(name)
    tokens = TABLE[f"{name}/{target}/tokens_after_block"].tolist()
    assert [step.after for step in steps_of(name, target, form)] == tokens[: form.depth]


STEPS = 300
"""Of a search whose file does not tell it."""


@functools.lru_cache(maxsize=1)
def search(target):
    """AdamW on the penalty, from no preference: GMACs before each step, and the counts at last."""
    model, form = model_of("ViT-T-DeiT")
    costs = block_costs(model, form)
    free = range(1, form.depth)
    places = [(None, None)] + [(row, row + len(free)) for row in range(len(free))]
    dense = published(model, form, steps_of("ViT-T-DeiT", "dense", form))
    counts = Counts(2 * len(free), form, granularity=4)
    unsearched = [(None, None)] * form.depth
    rest = dense - expected(by_width(costs), form, counts.kept, unsearched, "both").item()
    optimizer = torch.optim.AdamW([counts.logits], lr=0.01, weight_decay=0.0)
    found = []
    for _ in SEARCHES.get(f"{target}/gflops", range(STEPS)):
        counts.sample_()
        total = expected(by_width(costs), form, counts.kept, places, "both") + rest
        found.append(total.item() / 1e9)
        optimizer.zero_grad()
        (5 * (total / 1e9 - float(target[1:])) ** 2).backward()
        optimizer.step()
    kept = list(counts.counts())
    prune, merge = kept[: len(free)], kept[len(free) :]
    return found, {"prune": [form.tokens, *prune], "merge": [form.tokens, *merge]}


@pytest.mark.parametrize("target", SEARCHES.folders())
def test_golden_diffrate_search_for_macs_alone(target):
    golden = SEARCHES[f"{target}/gflops"]
    np.testing.assert_allclose(search(target)[0], golden, rtol=3e-7)


@pytest.mark.parametrize("target", SEARCHES.folders())
@pytest.mark.parametrize("kind", ["prune", "merge"])
def test_golden_diffrate_counts_of_a_search_for_macs_alone(target, kind):
    assert search(target)[1][kind] == SEARCHES[f"{target}/final_{kind}"].tolist()
