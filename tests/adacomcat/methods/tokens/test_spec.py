import json

import pytest
import torch

from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.rates import Rates
from adacomcat.methods.tokens.spec import (
    check_plan,
    form_of,
    plan_of,
    rates_of,
    shape_,
    shape_of,
    shapes_for,
    shapes_of,
)
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_caformer, tiny_images, tiny_vit

RATES = Rates((None, 14, 9), (17, 12, 5))
MEAN = {"global_pool": "avg", "fc_norm": True}
MODELS = {
    "plain": {},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "mean": MEAN,
    "registers": {"reg_tokens": 2},
    "no class token": {"class_token": False, "no_embed_class": True, **MEAN},
}


def vit(**options):
    return tiny_vit(depth=3, **options)


def dropping(model, rates=RATES, sizes="exact"):
    shape_(model, shapes_for(model, rates, sizes))
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", ["exact", "reference"])
def test_a_description_makes_the_same_model_anew(name, sizes):
    rates = Rates((None, 14, 9), (16, 12, 5))
    model, again = vit(**MODELS[name]), vit(seed=1, **MODELS[name])
    dense = model(tiny_images())
    dropping(model, rates, sizes)
    description = json.loads(json.dumps(shapes_of(model)))
    assert list(description) == ["blocks"]
    shape_(again, description)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(tiny_images()), model(tiny_images()))
    assert not torch.allclose(dense, model(tiny_images()), atol=1e-3)
    assert rates_of(again) == rates and again.blocks.sizes == sizes
    assert shapes_of(again) == shapes_of(model)


def test_blocks_and_parameters_stay_the_same_objects():
    model = vit()
    before, parameters = list(model.blocks), dict(model.named_parameters())
    model.eval().blocks[1].train()
    dropping(model)
    assert isinstance(model.blocks, TokenBlocks) and not model.blocks.training
    assert model.blocks[1].training and not model.blocks[0].training
    assert all(a is b for a, b in zip(model.blocks, before, strict=True))
    after = dict(model.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[name] is parameter for name, parameter in parameters.items())


def test_what_a_model_shows_is_its_plan():
    decisions = plan_of(dropping(vit())).decisions
    assert decisions == {
        "blocks.0.prune": None,
        "blocks.0.merge": 17,
        "blocks.1.prune": 14,
        "blocks.1.merge": 12,
        "blocks.2.prune": 9,
        "blocks.2.merge": 5,
    }
    assert plan_of(vit()) == Plan("diffrate", dict.fromkeys(decisions))
    assert shapes_of(vit()) == {} and shape_of(vit().blocks) is None


def test_a_caformer_has_sites_for_merging_alone():
    model = tiny_caformer()
    dropping(model, Rates((None,) * 4, (16, 11, 7, None)))
    sites = {f"stages.2.blocks.{block}.merge": n for block, n in enumerate((16, 11, 7, None))}
    assert plan_of(model) == Plan("diffrate", sites)
    assert list(shapes_of(model)) == ["stages.2.blocks"]
    again = tiny_caformer(seed=1)
    shape_(again, shapes_of(model))
    again.load_state_dict(model.state_dict())
    images = tiny_images(2, side=64)
    assert torch.equal(again(images), model(images))


def test_rates_can_change_on_a_model_that_drops_tokens_already():
    model, other = dropping(vit()), Rates((None,) * 3, (None, 10, None))
    dropping(model, other)
    expected = dropping(vit(), other)
    assert torch.equal(model(tiny_images()), expected(tiny_images()))
    assert form_of(model) == form_of(vit())


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (Rates((9,) * 12, (9,) * 12), r"rates\.prune: got '12 counts', allowed: 3"),
        (Rates((9,) * 3, (9,) * 2), r"rates\.merge: got '2 counts', allowed: 3"),
        (Rates((None, 1, 9), (9, 9, 9)), r"blocks\.1\.prune: got 1, allowed: 2 or more"),
        (Rates((None,) * 3, (9, 9, 0)), r"blocks\.2\.merge: got 0, allowed: 2 or more"),
    ],
)
def test_rates_that_do_not_go_with_the_model_are_refused(rates, message):
    with pytest.raises(ValueError, match=message):
        shapes_for(vit(), rates)


def test_rates_that_prune_a_caformer_are_refused():
    with pytest.raises(ValueError, match=r"stages\.2\.blocks\.1\.prune: got 9, .*merged, not pru"):
        shapes_for(tiny_caformer(), Rates((None, 9, None, None), (None,) * 4))


GOOD = {"kind": "tokens", "prune": [None, 14, 9], "merge": [17, 12, 5], "sizes": "exact"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("blocks.0", {}, r"modules: got 'blocks\.0', allowed: blocks, for tokens"),
        ("blocks", {"prune": [9]}, r"rates\.prune: got '1 counts', allowed: 3"),
        ("blocks", {"prune": 9}, r"modules\.blocks\.prune: got 9, allowed: a list of integers or"),
        ("blocks", {"merge": [1.5, 2, 3]}, r"modules\.blocks\.merge: got \[1\.5, 2, 3\]"),
        ("blocks", {"merge": [True, 2, 3]}, r"modules\.blocks\.merge: got \[True, 2, 3\]"),
        ("blocks", {"sizes": "larger"}, "sizes: got 'larger', allowed: 'exact' or 'reference'"),
        ("blocks", {"rank": 3}, r"modules\.blocks: got \['rank'\], allowed: exactly kind, prune"),
    ],
)
def test_a_damaged_description_is_refused_by_name(name, change, message):
    model = vit()
    with pytest.raises(ValueError, match=message):
        shape_(model, {name: GOOD | change})
    assert not isinstance(model.blocks, TokenBlocks)


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({"blocks.1.prune": 13}, r"blocks\.1\.prune: got 13, allowed: 14, the tokens kept"),
        ({"blocks.1.prune": None}, "got None, allowed: 14"),
        ({"blocks.0.prune": 3}, "got 3, allowed: None"),
        ({"blocks.1.prunes": 14}, r"got 'blocks\.1\.prunes' \(did you mean 'blocks\.1\.prune'"),
    ],
)
def test_a_plan_of_another_model_is_refused(decisions, message):
    with pytest.raises(ValueError, match=message):
        check_plan(dropping(vit()), Plan("diffrate", decisions))


def test_a_plan_of_some_sites_is_enough():
    check_plan(dropping(vit()), Plan("diffrate", {"blocks.1.prune": 14, "blocks.0.prune": None}))


def test_models_whose_tokens_cannot_be_dropped_are_refused():
    with pytest.raises(ValueError, match=r"model\.norm: got 'LayerNorm', allowed: .*fc_norm"):
        shapes_for(vit(global_pool="avg", fc_norm=False), RATES)
