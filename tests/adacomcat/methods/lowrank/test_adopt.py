import pytest
import torch

from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import draw_parameters_, tiny_images, tiny_vit

IMAGES = tiny_images()


def bind(model=None, **settings):
    return LowRank(tiny_vit() if model is None else model, LowRankConfig(**settings))


def halved(method, **changes):
    """Every site at half its full rank, but for the changes."""
    ranks = {s.name: max(1, s.full // 2 // s.groups) * s.groups for s in method.sites}
    return Plan("lowrank", ranks | changes)


def committed(model=None, changes=None, **settings):
    method = bind(model, **settings)
    method.commit_(halved(method, **(changes or {})))
    return method


def test_with_the_dense_models_columns_a_rank_grows_back_as_after_a_commit():
    source = committed(source="dense")
    method = bind(source="dense")
    method.adopt_(source.model, source.plan)
    whole = Plan("lowrank", {s.name: s.full for s in method.sites})
    for each in (source, method):
        each.commit_(whole)
    # What was cut off came back: the dense model, on either way.
    for each in (source, method):
        torch.testing.assert_close(each.model(IMAGES), tiny_vit()(IMAGES), rtol=0, atol=1e-4)


def test_without_them_a_rank_cannot_grow_back():
    source, method = committed(), bind()
    method.adopt_(source.model, source.plan)
    with pytest.raises(ValueError, match="at most 16, the rank in force"):
        method.commit_(halved(method, **{"blocks.0.qk": 20}))


@pytest.mark.parametrize("source", ["current", "dense"])
def test_a_model_without_attention_biases_goes_on_without_them(source):
    other = committed(biases="drop")
    method = bind(biases="drop", source=source)
    method.adopt_(other.model, other.plan)
    smaller = halved(method, **{"blocks.0.qk": 8})
    for each in (other, method):
        each.commit_(smaller)
    torch.testing.assert_close(method.model(IMAGES), other.model(IMAGES), rtol=0, atol=1e-5)


def test_dropped_biases_are_no_obstacle_to_a_method_that_keeps_them():
    other, method = committed(biases="drop"), bind(biases="exact")
    method.adopt_(other.model, other.plan)
    assert torch.equal(method.model(IMAGES), other.model(IMAGES))
    method.prepare_()
    method.sample_(1.0, None)
    assert method.model(IMAGES).isfinite().all()
    method.commit_(halved(method, **{"blocks.0.qk": 8}))
    assert method.model.blocks[0].attn.q_bias is None


def test_a_side_that_was_left_whole_may_be_called_dense():
    changes = {"blocks.0.qk": None, "blocks.1.fc1": None}
    source, method = committed(changes=changes), bind()
    method.adopt_(source.model, source.plan)
    assert method.plan == source.plan
    assert torch.equal(method.model(IMAGES), source.model(IMAGES))


def refusal(model, plan, **settings):
    method = bind(**settings)
    before = {key: value.clone() for key, value in method.model.state_dict().items()}
    with pytest.raises(ValueError) as refused:
        method.adopt_(model, plan)
    after = method.model.state_dict()
    assert list(after) == list(before) and method.plan is None
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    return str(refused.value)


def test_what_is_not_of_this_dense_model_is_named():
    deep = committed(tiny_vit(depth=3))
    plan = halved(bind())
    assert "model: got ['blocks.2.attn', 'blocks.2.mlp.fc1'" in refusal(deep.model, plan)
    scaled = committed(tiny_vit(init_values=0.1))
    assert "model: has blocks.0.ls1.gamma" in refusal(scaled.model, plan)
    wide = committed(tiny_vit(embed_dim=64))
    assert "plan.decisions.blocks.0.qk: got 16, allowed: 32, the rank" in refusal(wide.model, plan)
    same = {s: r for s, r in plan.decisions.items()}
    wide = bind(tiny_vit(embed_dim=64))
    wide.commit_(Plan("lowrank", same))
    assert "width: got 64, allowed: 32, the dense module's" in refusal(wide.model, plan)


def test_a_site_that_is_not_searched_must_be_dense():
    source = committed()
    plan = Plan("lowrank", {s: r for s, r in source.plan.decisions.items() if s != "head"})
    message = refusal(source.model, plan, keep_dense=("head",))
    assert message.startswith("model: got ['head'], allowed: factorized modules at the searched")


def test_columns_without_a_row_for_the_query_bias_are_refused():
    source = committed(biases="drop")
    message = refusal(source.model, source.plan, source="dense")
    assert message == (
        "model.blocks.0.attn: a query bias: got False, allowed: True, as method.source 'dense' "
        "makes of the dense model"
    )


def test_a_committed_method_cannot_adopt():
    method = committed()
    with pytest.raises(AssertionError, match="adopt_ wants a dense model"):
        method.adopt_(committed().model, method.plan)


def test_weights_are_those_of_the_adopted_model_and_no_others():
    source = committed()
    draw_parameters_(source.model, 7)
    method = bind(tiny_vit(seed=9))
    method.adopt_(source.model, source.plan)
    state = source.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in method.model.state_dict().items())
