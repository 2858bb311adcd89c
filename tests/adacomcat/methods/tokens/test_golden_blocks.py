"""Agreement of inference with numbers of the published DiffRate; see the folder's README."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.compress import attention_rows, importance, match, size_bias, take
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of

BESIDE = Path(__file__).parents[5] / "shared" / "golden"
FILE = Path(os.environ.get("ADACOMCAT_GOLDEN", BESIDE)) / "diffrate" / "diffrate.npz"
FAMILIES = ("deit", "mae")
HEADS = 3

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"no reference numbers at {FILE}")


def stored():
    if not FILE.exists():
        return {}
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


GOLDEN = stored()
CASES = sorted(
    {
        tuple(name.split("/")[:2])
        for name in GOLDEN
        if name.startswith(tuple(f"{family}/eval_" for family in FAMILIES))
    }
)


def below(prefix):
    return {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}


def heads_of(family):
    """Weights do not say it."""
    for name in (f"{family}/geometry", "geometry"):
        if name in GOLDEN:
            # As in the other file of reference numbers: embed, depth, heads, ...
            return int(GOLDEN[name][2])
    return HEADS


def dense(family):
    """The model that the weights are of."""
    weights = below(f"{family}/w/")
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
    images = images_of(family)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        embed_dim=width,
        depth=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        num_heads=heads_of(family),
        mlp_ratio=hidden / width,
        num_classes=weights["head.weight"].shape[0],
        img_size=images.shape[-1],
        patch_size=patch,
        global_pool="avg" if "fc_norm.weight" in weights else "token",
        fc_norm="fc_norm.weight" in weights,
    )
    model.load_state_dict(weights, strict=True)
    return model.eval()


def images_of(family):
    return GOLDEN.get(f"{family}/input", GOLDEN["deit/input"])


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=atol)


class Case:
    """An eval case with the model that it is of."""

    def __init__(self, family, name, sizes="exact"):
        self.where = f"{family}/{name}"
        self.model = dense(family)
        self.images = images_of(family)
        self.form = tokens_of(self.model)
        self.rates = Rates(*(tuple(self.golden(kind).tolist()) for kind in KEPT))
        self.model.blocks = self.blocks(self.form.depth, sizes)

    def golden(self, name):
        return GOLDEN[f"{self.where}/{name}"]

    def has(self, name):
        return f"{self.where}/{name}" in GOLDEN

    def blocks(self, depth, sizes="exact"):
        """The first so many."""
        rates = Rates(self.rates.prune[:depth], self.rates.merge[:depth])
        form = type(self.form)(**vars(self.form) | {"depth": depth})
        return TokenBlocks(list(self.model.blocks)[:depth], rates, form, sizes).eval()

    def tokens(self):
        """What enters the blocks."""
        return self.model._pos_embed(self.model.patch_embed(self.images))


KEPT = ("prune_kept", "merge_kept")


@pytest.fixture(params=CASES, ids="/".join)
def case(request):
    with torch.no_grad():
        yield Case(*request.param)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_logits_are_golden_in_diffrate(family):
    with torch.no_grad():
        close(dense(family)(images_of(family)), GOLDEN[f"{family}/dense_logits"])


@pytest.mark.parametrize("sizes", ["exact", "reference"])
@pytest.mark.parametrize("name", CASES, ids="/".join)
def test_logits_are_golden_in_diffrate(name, sizes):
    case = Case(*name, sizes)
    with torch.no_grad():
        close(case.model(case.images), case.golden("logits"))


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


def test_tokens_and_sizes_after_each_block_are_golden_in_diffrate(case):
    count = len(case.images)
    for depth in range(1, case.form.depth + 1):
        at = f"block{depth - 1}"
        x, sizes, moves = case.blocks(depth).run(case.tokens())
        ids, expected = survivors(moves, count, case.form.tokens), case.golden(f"{at}/ids")
        assert torch.equal(ids.sort(1).values, expected.sort(1).values)
        wanted = by_id(expected, case.golden(f"{at}/x"))
        close(by_id(ids, x), wanted, atol=1e-5 * float(wanted.abs().max()))
        sizes = torch.ones(ids.shape) if sizes is None else sizes
        close(by_id(ids, sizes), by_id(expected, case.golden(f"{at}/size")))


def test_sources_of_each_token_are_golden_in_diffrate(case):
    _, _, moves = case.model.blocks.run(case.tokens())
    masks = case.model.blocks.trace(case.tokens())
    assert len(masks) == case.form.depth
    for block, mask in enumerate(masks):
        ids = survivors(moves[: block + 1], len(mask), case.form.tokens)
        expected = case.golden(f"block{block}/source") > 0
        assert torch.equal(by_id(ids, mask), by_id(case.golden(f"block{block}/ids"), expected))


def entering(case, block):
    """Tokens of a block by id, (B, N, C), their sizes and which they are in the published order."""
    x, count = case.tokens(), len(case.images)
    if not block:
        return x, torch.ones(x.shape[:2]), survivors([], count, case.form.tokens)
    x, sizes, moves = case.blocks(block).run(x)
    ids = survivors(moves, count, case.form.tokens)
    sizes = torch.ones(ids.shape) if sizes is None else by_id(ids, sizes)
    return by_id(ids, x), sizes, case.golden(f"block{block - 1}/ids")


def test_importance_is_golden_in_diffrate(case):
    for number, block in enumerate(case.model.blocks):
        x, sizes, theirs = entering(case, number)
        q, k, _ = case.form.steps.project(block, x)
        rows = attention_rows(q[:, :, : case.form.scoring], k, block.attn.scale, sizes)
        found = importance(rows)[:, case.form.prefix :]
        # There without the class token, which is always in front.
        expected = by_id(theirs[:, case.form.prefix :], case.golden(f"block{number}/importance"))
        close(found, expected, atol=1e-6)


def test_matching_is_golden_in_diffrate(case):
    for number, (block, step) in enumerate(
        zip(case.model.blocks, case.model.blocks.steps, strict=True)
    ):
        assert case.has(f"block{number}/dst") is step.merges
        if not step.merges:
            continue
        x, sizes, theirs = entering(case, number)
        steps = case.form.steps
        q, k, v = steps.project(block, x)
        bias = size_bias(sizes, q.dtype)
        heads = F.scaled_dot_product_attention(q, k, v, scale=steps.scale(block), attn_mask=bias)
        x = steps.add_attention(block, x, steps.finish(block, heads))
        # Of tokens by id, in the published order.
        places = theirs.argsort(1).argsort(1)
        order = case.golden(f"block{number}/order")[:, : step.pruned]
        found = match(take(x, take(places, order)), step.after, case.form.prefix)
        assert torch.equal(found.target + case.form.prefix, case.golden(f"block{number}/dst"))
        close(found.cosine, case.golden(f"block{number}/node_max"))
