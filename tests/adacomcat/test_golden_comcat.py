"""Agreement with numbers of the published ComCAT implementation; see the folder's README."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.search.penalty import penalized

BESIDE = Path(__file__).parents[3] / "shared" / "golden"
FILE = Path(os.environ.get("ADACOMCAT_GOLDEN", BESIDE)) / "comcat_core.npz"

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"no reference numbers at {FILE}")


@pytest.fixture
def golden():
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def dense(golden):
    width, depth, heads, classes, image, patch = golden["geometry"].tolist()
    model = timm.create_model(
        "vit_tiny_patch16_224",
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=classes,
        img_size=image,
        patch_size=patch,
    )
    prefix = "dense."
    weights = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    model.load_state_dict(weights, strict=True)
    return model.eval()


@pytest.fixture
def method(dense):
    """The reference's candidates: its menus whole, and no attention biases."""
    return LowRank(dense, LowRankConfig(space="paper", allow_larger=True, biases="drop"))


def close(actual, expected):
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected.to(actual.dtype) / scale, rtol=0, atol=1e-4)


def set_logits(method, golden):
    with torch.no_grad():
        for row, site in enumerate(method.sites):
            method.mixture.logits[row, : len(site.candidates)] = golden[f"alpha{row}"]


def plan_of(method, ranks):
    names = [site.name for site in method.sites]
    return Plan("lowrank", dict(zip(names, ranks, strict=True)))


def test_golden_comcat_dense_logits(golden, dense):
    close(dense(golden["x"]), golden["dense_logits"])


def test_golden_comcat_largest_ranks(golden, method):
    method.commit_(plan_of(method, [site.candidates[-1].rank for site in method.sites]))
    close(method.model(golden["x"]), golden["maxrank_logits"])


def test_golden_comcat_search_step(golden, method):
    budget = method.budget(BudgetConfig(reduction=float(golden["target_reduction"])))
    assert budget.target == float(golden["target_params"])
    set_logits(method, golden)
    method.prepare_()
    method.sample_(float(golden["temperature"]), None)
    logits = method.model(golden["x"])
    close(logits, golden["search_logits"])
    expected = method.expected_cost("params")
    close(expected, golden["search_params"])
    entropy = torch.nn.functional.cross_entropy(logits, golden["y"])
    close(entropy, golden["search_ce"])
    loss = penalized(entropy, expected, budget, SearchConfig(beta=float(golden["beta"])))
    close(loss, golden["search_loss"])
    loss.backward()
    for row, site in enumerate(method.sites):
        reference = golden[f"alpha_grad{row}"]
        close(method.mixture.logits.grad[row, : len(site.candidates)], reference)


def test_golden_comcat_plan_and_truncation(golden, method):
    set_logits(method, golden)
    budget = method.budget(BudgetConfig(reduction=float(golden["target_reduction"])))
    plan = method.propose(budget, "argmax").plan
    assert list(plan.decisions.values()) == golden["ranks"].tolist()
    method.commit_(plan)
    close(method.model(golden["x"]), golden["ranked_logits"])


def test_golden_comcat_truncation_out_of_the_supernet(golden, method):
    method.prepare_()
    method.commit_(plan_of(method, golden["ranks"].tolist()))
    close(method.model(golden["x"]), golden["ranked_logits"])
