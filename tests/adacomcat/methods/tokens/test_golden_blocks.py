"""Agreement of inference with numbers of the published DiffRate; see the folder's README."""

import functools

import pytest
import torch
import torch.nn.functional as F

from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.compress import attention_rows, importance, match, size_bias, take
from adacomcat.methods.tokens.macs import published
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of
from adacomcat.testing.golden import KEPT, Numbers, depth_of, diffrate_vit, images_of, vit_families

GOLDEN = Numbers.read("diffrate", "diffrate.npz")
FAMILIES = vit_families(GOLDEN)
CASES = [(f, case) for f in FAMILIES for case in GOLDEN.below(f"{f}/").folders("eval_")]
BLOCKS = [(*name, i) for name in CASES for i in range(depth_of(GOLDEN.below(f"{name[0]}/w/")))]

pytestmark = pytest.mark.skipif(not GOLDEN, reason=GOLDEN.absent)
every_case = pytest.mark.parametrize("name", CASES, ids="/".join)
every_block = pytest.mark.parametrize("name", BLOCKS, ids=lambda n: "/".join(map(str, n)))


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=atol)


class Case:
    """An eval case with the model that it is of."""

    def __init__(self, family, name, sizes="exact"):
        self.golden = GOLDEN.below(f"{family}/{name}/")
        self.model = diffrate_vit(GOLDEN, family)
        self.images = images_of(GOLDEN, family)
        self.form = tokens_of(self.model)
        self.rates = Rates(*(tuple(self.golden[kind].tolist()) for kind in KEPT))
        self.model.blocks = self.blocks(self.form.depth, sizes)

    def at(self, block):
        """The numbers of a block."""
        return self.golden.below(f"block{block}/")

    def blocks(self, depth, sizes="exact"):
        """The first so many."""
        rates = Rates(self.rates.prune[:depth], self.rates.merge[:depth])
        form = type(self.form)(**vars(self.form) | {"depth": depth})
        return TokenBlocks(list(self.model.blocks)[:depth], rates, form, sizes).eval()

    def tokens(self):
        """What enters the blocks."""
        return self.model._pos_embed(self.model.patch_embed(self.images))


@functools.lru_cache(maxsize=1)
def case_of(family, name):
    """The case of tests in a row, built once."""
    return Case(family, name)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_dense_logits_are_golden_in_diffrate(family):
    close(diffrate_vit(GOLDEN, family)(images_of(GOLDEN, family)), GOLDEN[f"{family}/dense_logits"])


@pytest.mark.parametrize("sizes", ["exact", "reference"])
@every_case
@torch.no_grad()
def test_logits_are_golden_in_diffrate(name, sizes):
    case = Case(*name, sizes)
    close(case.model(case.images), case.golden["logits"])


@every_case
def test_macs_are_golden_in_diffrate(name):
    case = case_of(*name)
    found = published(case.model, case.form, case.model.blocks.steps)
    assert found == int(case.golden["flops"])


def survivors(moves, images, tokens):
    """(B, N'), the first tokens in whose place those that are left stand."""
    ids = torch.arange(tokens).expand(images, -1)
    for move in moves:
        if move is not None:
            ids = take(ids, move.rows)
            ids = ids[:, : ids.shape[1] - (0 if move.target is None else move.target.shape[1])]
    return ids


def by_id(ids, values):
    """Rows of each image in the order of their ids."""
    return take(values, ids.argsort(1))


def after(name):
    """The case, the numbers of a block, and our tokens, sizes and their ids after it."""
    family, case, block = name
    case = case_of(family, case)
    x, sizes, moves = case.blocks(block + 1).run(case.tokens())
    ids = survivors(moves, len(case.images), case.form.tokens)
    return case.at(block), x, torch.ones(ids.shape) if sizes is None else sizes, ids


@every_block
@torch.no_grad()
def test_survivors_are_golden_in_diffrate(name):
    golden, _, _, ids = after(name)
    assert torch.equal(ids.sort(1).values, golden["ids"].sort(1).values)


@every_block
@torch.no_grad()
def test_tokens_are_golden_in_diffrate(name):
    golden, x, _, ids = after(name)
    wanted = by_id(golden["ids"], golden["x"])
    close(by_id(ids, x), wanted, atol=1e-5 * float(wanted.abs().max()))


@every_block
@torch.no_grad()
def test_sizes_are_golden_in_diffrate(name):
    golden, _, sizes, ids = after(name)
    close(by_id(ids, sizes), by_id(golden["ids"], golden["size"]))


@every_block
@torch.no_grad()
def test_sources_of_each_token_are_golden_in_diffrate(name):
    family, case, block = name
    case = case_of(family, case)
    golden = case.at(block)
    expected = by_id(golden["ids"], golden["source"] > 0)
    _, _, moves = case.model.blocks.run(case.tokens())
    masks = case.model.blocks.trace(case.tokens())
    assert len(masks) == case.form.depth
    ids = survivors(moves[: block + 1], len(case.images), case.form.tokens)
    assert torch.equal(by_id(ids, masks[block]), expected)


def entering(case, block):
    """Tokens of a block by id, (B, N, C), their sizes and which they are in the published order."""
    x, count = case.tokens(), len(case.images)
    if not block:
        return x, torch.ones(x.shape[:2]), survivors([], count, case.form.tokens)
    x, sizes, moves = case.blocks(block).run(x)
    ids = survivors(moves, count, case.form.tokens)
    sizes = torch.ones(ids.shape) if sizes is None else by_id(ids, sizes)
    return by_id(ids, x), sizes, case.at(block - 1)["ids"]


@every_block
@torch.no_grad()
def test_importance_is_golden_in_diffrate(name):
    family, case, number = name
    case = case_of(family, case)
    golden, block = case.at(number)["importance"], case.model.blocks[number]
    x, sizes, theirs = entering(case, number)
    q, k, _ = case.form.steps.project(block, x)
    rows = attention_rows(q[:, :, : case.form.scoring], k, block.attn.scale, sizes)
    found = importance(rows)[:, case.form.prefix :]
    # There without the class token, which is always in front.
    close(found, by_id(theirs[:, case.form.prefix :], golden), atol=1e-6)


def matching(name, key):
    """Numbers of a block about its matching, and ours; none where nothing is merged."""
    family, case, number = name
    case = case_of(family, case)
    golden, step = case.at(number), case.model.blocks.steps[number]
    if not step.merges:
        # A block that merges nothing stores no partners, or an empty tensor.
        assert not golden.get(key, torch.empty(0)).numel()
        return None, None
    expected = golden[key]
    assert expected.numel()
    x, sizes, theirs = entering(case, number)
    steps, block = case.form.steps, case.model.blocks[number]
    q, k, v = steps.project(block, x)
    bias = size_bias(sizes, q.dtype)
    heads = F.scaled_dot_product_attention(q, k, v, scale=steps.scale(block), attn_mask=bias)
    x = steps.add_attention(block, x, steps.finish(block, heads))
    # Of tokens by id, in the published order.
    places = theirs.argsort(1).argsort(1)
    order = golden["order"][:, : step.pruned]
    found = match(take(x, take(places, order)), step.after, case.form.prefix)
    return expected, found._replace(target=found.target + case.form.prefix)


@every_block
@torch.no_grad()
def test_partners_are_golden_in_diffrate(name):
    expected, found = matching(name, "dst")
    assert found is None or torch.equal(found.target, expected)


@every_block
@torch.no_grad()
def test_cosines_of_partners_are_golden_in_diffrate(name):
    expected, found = matching(name, "node_max")
    if found is not None:
        close(found.cosine, expected)
