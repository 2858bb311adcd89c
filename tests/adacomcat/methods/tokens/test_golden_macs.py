"""MACs by the formula of the DiffRate paper, as its implementation has them; see the folder's
README."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from adacomcat.methods.tokens.counts import Counts
from adacomcat.methods.tokens.macs import block_costs, by_width, expected, published
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of

BESIDE = Path(__file__).parents[5] / "shared" / "golden"
FOLDER = Path(os.environ.get("ADACOMCAT_GOLDEN", BESIDE)) / "diffrate"
FILE, RATES = FOLDER / "diffrate.npz", FOLDER / "published_rates.json"
MODELS = {
    "ViT-T-DeiT": "deit_tiny_patch16_224",
    "ViT-S-DeiT": "deit_small_patch16_224",
    "ViT-B-DeiT": "deit_base_patch16_224",
    "ViT-B-MAE": "vit_base_patch16_224",
    "ViT-L-MAE": "vit_large_patch16_224",
    "ViT-H-MAE": "vit_huge_patch14_224",
    "CAFormer-S36": "caformer_s36",
}

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"no reference numbers at {FOLDER}")


def arrays():
    if not FILE.exists():
        return {}
    with np.load(FILE) as found:
        return {n: found[n] for n in found.files if n.startswith(("flops_table/", "flops_search/"))}


NUMBERS = arrays()


def cases():
    """(model, target) of all published rates, and every dense model."""
    if not RATES.exists():
        return []
    named = json.loads(RATES.read_text())
    return [(name, target) for name, rates in named.items() for target in ["dense", *rates]]


@functools.cache
def model_of(name):
    """Without memory: only its shapes count."""
    options = {"global_pool": "avg", "fc_norm": True} if name.endswith("MAE") else {}
    with torch.device("meta"):
        model = timm.create_model(MODELS[name], num_classes=1000, **options)
    return model, tokens_of(model)


def steps_of(name, target, form):
    if target == "dense":
        rates = Rates((None,) * form.depth, (None,) * form.depth)
    else:
        found = json.loads(RATES.read_text())[name][target]
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


@pytest.mark.parametrize(("name", "target"), cases())
def test_golden_diffrate_macs_of_published_rates(name, target):
    model, form = model_of(name)
    steps = steps_of(name, target, form)
    found = published(model, form, steps)
    assert found == sum(terms(name, steps))
    if f"flops_table/{name}/{target}" not in NUMBERS:
        return
    number = float(NUMBERS[f"flops_table/{name}/{target}"])
    # Theirs is a sum in float32, which holds seven digits.
    assert found == pytest.approx(number, rel=3e-7)
    if name != "CAFormer-S36":
        assert functools.reduce(np.add, map(np.float32, terms(name, steps))) == number
    tokens = NUMBERS.get(f"flops_table/{name}/{target}/tokens_after_block")
    if tokens is not None:
        assert [step.after for step in steps] == tokens.tolist()[: form.depth]


def searches():
    return sorted({n.split("/")[1] for n in NUMBERS if n.startswith("flops_search/")})


@pytest.mark.parametrize("target", searches())
def test_golden_diffrate_search_for_macs_alone(target):
    """300 steps of AdamW on the penalty, from no preference: the same counts at each of them."""
    model, form = model_of("ViT-T-DeiT")
    costs = block_costs(model, form)
    numbers = {
        n: NUMBERS[f"flops_search/{target}/{n}"] for n in ("gflops", "final_prune", "final_merge")
    }
    free = range(1, form.depth)
    places = [(None, None)] + [(row, row + len(free)) for row in range(len(free))]
    dense = published(model, form, steps_of("ViT-T-DeiT", "dense", form))
    counts = Counts(2 * len(free), form, granularity=4)
    unsearched = [(None, None)] * form.depth
    rest = dense - expected(by_width(costs), form, counts.kept, unsearched, "both").item()
    optimizer = torch.optim.AdamW([counts.logits], lr=0.01, weight_decay=0.0)
    found = []
    for _ in numbers["gflops"]:
        counts.sample_()
        total = expected(by_width(costs), form, counts.kept, places, "both") + rest
        found.append(total.item() / 1e9)
        optimizer.zero_grad()
        (5 * (total / 1e9 - float(target[1:])) ** 2).backward()
        optimizer.step()
    np.testing.assert_allclose(found, numbers["gflops"], rtol=3e-7)
    kept = list(counts.counts())
    assert [form.tokens, *kept[: len(free)]] == numbers["final_prune"].tolist()
    assert [form.tokens, *kept[len(free) :]] == numbers["final_merge"].tolist()
