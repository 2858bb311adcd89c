"""Agreement with numbers of the published ComCAT implementation; see the folder's README."""

import pytest
import torch

from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.search.penalty import penalized
from adacomcat.testing.golden import Numbers, comcat_vit

GOLDEN = Numbers.read("comcat_core.npz")
SITES = sorted(int(key.removeprefix("alpha")) for key in GOLDEN if key[5:].isdigit())

pytestmark = pytest.mark.skipif(not GOLDEN, reason=GOLDEN.absent)


def dense_model():
    model = comcat_vit(GOLDEN["geometry"])
    model.load_state_dict(GOLDEN.below("dense."), strict=True)
    return model.eval()


def bind():
    """The reference's candidates: its menus whole, and no attention biases."""
    return LowRank(dense_model(), LowRankConfig(space="paper", allow_larger=True, biases="drop"))


@pytest.fixture
def method():
    return bind()


def close(actual, expected):
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected.to(actual.dtype) / scale, rtol=0, atol=1e-4)


def set_logits(method):
    with torch.no_grad():
        for row, site in enumerate(method.sites):
            method.mixture.logits[row, : len(site.candidates)] = GOLDEN[f"alpha{row}"]


def budget_of(method):
    return method.budget(BudgetConfig(reduction=float(GOLDEN["target_reduction"])))


def plan_of(method, ranks):
    names = [site.name for site in method.sites]
    return Plan("lowrank", dict(zip(names, ranks, strict=True)))


@pytest.fixture(scope="module")
def searching():
    """A method whose search step has drawn its mixture, and the logits of the model."""
    method = bind()
    set_logits(method)
    method.prepare_()
    method.sample_(float(GOLDEN["temperature"]), None)
    return method, method.model(GOLDEN["x"])


def loss_of(searching):
    method, logits = searching
    entropy = torch.nn.functional.cross_entropy(logits, GOLDEN["y"])
    config = SearchConfig(beta=float(GOLDEN["beta"]))
    return penalized(entropy, method.expected_cost("params"), budget_of(method), config)


def test_golden_comcat_dense_logits():
    close(dense_model()(GOLDEN["x"]), GOLDEN["dense_logits"])


def test_golden_comcat_largest_ranks(method):
    method.commit_(plan_of(method, [site.candidates[-1].rank for site in method.sites]))
    close(method.model(GOLDEN["x"]), GOLDEN["maxrank_logits"])


def test_golden_comcat_target(method):
    assert budget_of(method).target == float(GOLDEN["target_params"])


def test_golden_comcat_search_logits(searching):
    close(searching[1], GOLDEN["search_logits"])


def test_golden_comcat_search_params(searching):
    close(searching[0].expected_cost("params"), GOLDEN["search_params"])


def test_golden_comcat_search_entropy(searching):
    close(torch.nn.functional.cross_entropy(searching[1], GOLDEN["y"]), GOLDEN["search_ce"])


def test_golden_comcat_search_loss(searching):
    close(loss_of(searching), GOLDEN["search_loss"])


@pytest.mark.parametrize("row", SITES)
def test_golden_comcat_search_gradients(searching, row):
    method, _ = searching
    logits = method.mixture.logits
    (gradient,) = torch.autograd.grad(loss_of(searching), logits, retain_graph=True)
    candidates = method.sites[row].candidates
    close(gradient[row, : len(candidates)], GOLDEN[f"alpha_grad{row}"])


def test_golden_comcat_plan(method):
    set_logits(method)
    plan = method.propose(budget_of(method), "argmax").plan
    assert list(plan.decisions.values()) == GOLDEN["ranks"].tolist()


@pytest.mark.parametrize("supernet", [False, True])
def test_golden_comcat_truncation(method, supernet):
    if supernet:
        method.prepare_()
    method.commit_(plan_of(method, GOLDEN["ranks"].tolist()))
    close(method.model(GOLDEN["x"]), GOLDEN["ranked_logits"])
