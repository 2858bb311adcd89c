"""CAFormer with merged tokens: against numbers of the published implementation where the folder
holds them, and against a loop over single tokens, written from the paper, where it does not.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from adacomcat.methods.tokens import blocks as tokens_blocks
from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.config import DiffRateConfig
from adacomcat.methods.tokens.macs import published
from adacomcat.methods.tokens.method import DiffRate
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of
from adacomcat.models.weights import load_state_
from adacomcat.testing.models import tiny_caformer, tiny_images

BESIDE = Path(__file__).parents[5] / "shared" / "golden"
FILE = Path(os.environ.get("ADACOMCAT_GOLDEN", BESIDE)) / "diffrate" / "diffrate.npz"
FAMILY = "caformer"
LOGITS = 2e-5
"""Of logits of about 2: through 224 x 224 convolutions two sound programs differ by 1.2e-5."""


def compress_(model, merge):
    """Commit a CAFormer to counts of its third stage; the new container."""
    form = tokens_of(model)
    rates = Rates((None,) * form.depth, tuple(merge))
    blocks = TokenBlocks(model.get_submodule(form.container).children(), rates, form)
    model.set_submodule(form.container, blocks)
    return blocks


# The published implementation.


def read():
    if not FILE.exists():
        return {}
    with np.load(FILE) as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(FAMILY)}


GOLDEN = read()
IMAGES = next((value for key, value in GOLDEN.items() if key.endswith("/input")), None)
CASES = sorted({key.split("/")[1] for key in GOLDEN if key.startswith(f"{FAMILY}/eval_")})
needs_numbers = pytest.mark.skipif(
    IMAGES is None, reason=f"no reference numbers of CAFormer in {FILE}"
)


def golden_model():
    """The model of the folder, of whatever geometry, its weights in their authors' naming."""
    prefix = f"{FAMILY}/w/"
    weights = {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}
    norms = [key.split(".") for key in weights if key.endswith(".norm1.weight")]
    depths = [1 + max(int(key[2]) for key in norms if key[1] == str(i)) for i in range(4)]
    dims = [len(weights[f"stages.{i}.0.norm1.weight"]) for i in range(4)]
    classes = len(weights["head.fc2.weight"])
    model = tiny_caformer(depths=depths, dims=dims, num_classes=classes, side=IMAGES.shape[-1])
    load_state_(model, weights, str(FILE), new_head=False)
    return model


def partition(assigned, count):
    """Whether two of the first tokens go together, (B, T, T), by any labeling of them."""
    if assigned.ndim == 3 and assigned.shape[-1] == 1:
        assigned = assigned[..., 0]
    if assigned.ndim == 2:
        assert assigned.shape[1] == count
        return assigned[:, :, None] == assigned[:, None]
    masks = assigned.float()
    return (masks.mT @ masks if masks.shape[-1] == count else masks @ masks.mT) > 0


@needs_numbers
@torch.no_grad()
def test_golden_diffrate_caformer_dense_logits():
    model = golden_model()
    expected = GOLDEN.get(f"{FAMILY}/dense_logits")
    if expected is None:
        pytest.skip("no logits of the dense model in the folder")
    torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=LOGITS)


@needs_numbers
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_golden_diffrate_caformer_eval(case, monkeypatch):
    model, root = golden_model(), f"{FAMILY}/{case}"
    form = tokens_of(model)
    # Counts of the fourth stage follow, which keeps all its tokens.
    merge = [int(count) for count in GOLDEN[f"{root}/merge_kept"]][: form.depth]
    blocks, entered, matches = compress_(model, merge), [], []
    blocks.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    plain = tokens_blocks.match
    monkeypatch.setattr(tokens_blocks, "match", lambda *a: matches.append(plain(*a)) or matches[-1])
    logits = model(IMAGES)
    torch.testing.assert_close(logits, GOLDEN[f"{root}/logits"], rtol=0, atol=LOGITS)
    assert published(model, form, blocks.steps) == int(GOLDEN[f"{root}/flops"])
    found = iter(matches)
    for block, trace in enumerate(blocks.trace(entered[0])):
        if not blocks.steps[block].merges:
            continue
        place = f"{root}/attnblock{block}"
        # Sets, since the two may number the tokens otherwise.
        sizes = GOLDEN[f"{place}/size"].flatten(1).sort().values
        torch.testing.assert_close(trace.sum(-1).float().sort().values, sizes)
        assigned = partition(GOLDEN[f"{place}/assign"], form.tokens)
        assert torch.equal(partition(trace, form.tokens), assigned)
        cosine = GOLDEN[f"{place}/node_max"].flatten(1).sort().values
        found_cosine = next(found).cosine.sort().values
        torch.testing.assert_close(found_cosine, cosine, rtol=0, atol=1e-5)


def test_golden_diffrate_caformer_macs():
    """Numbers that the published implementation printed for 224 x 224 images."""
    model = tiny_caformer(side=224)
    form = tokens_of(model)
    steps = Rates((None,) * 4, (196, 163, 129, 196)).steps(form.tokens)
    assert published(model, form, steps) == 102_511_744


@pytest.mark.skipif(
    f"{FAMILY}/train/logits" not in GOLDEN, reason=f"no search of a CAFormer in {FILE}"
)
def test_golden_diffrate_caformer_search():
    model, root = golden_model(), f"{FAMILY}/train"
    prefix = f"{root}/rate_param/"
    rates = {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}
    # Blocks that keep all tokens have one candidate.
    rates = {name: v for name, v in sorted(rates.items(), key=natural) if len(v) > 1}
    patches = tokens_of(model).patches
    candidates = len(next(iter(rates.values())))
    config = DiffRateConfig(
        granularity=-(-patches // candidates),
        sizes="reference",
        mask_gradient="reference",
        min_gradient="both",
        macs="published",
    )
    method = DiffRate(model, config)
    with torch.no_grad():
        method.counts.logits.copy_(torch.stack(list(rates.values())))
    method.prepare_()
    method.sample_(1.0, None)
    merge = GOLDEN[f"{root}/merge_kept"].tolist()
    counts = dict(zip(method.rows, method.counts.counts(), strict=True))
    form = method.form
    assert counts == {form.site(b, "merge"): merge[b] for b in range(1, form.depth - 1)}
    logits = model(IMAGES)
    torch.testing.assert_close(logits, GOLDEN[f"{root}/logits"], rtol=0, atol=LOGITS)
    entropy = torch.nn.functional.cross_entropy(logits, GOLDEN[f"{root}/labels"])
    assert entropy.item() == pytest.approx(float(GOLDEN[f"{root}/ce"]), abs=1e-5)
    (gradient,) = torch.autograd.grad(entropy, method.counts.logits)
    for row, name in enumerate(rates):
        expected = GOLDEN[f"{root}/grad_ce/{name}"]
        torch.testing.assert_close(gradient[row], expected, rtol=0, atol=1e-6)


def natural(item):
    """Numbers in a name by value."""
    return [int(part) if part.isdigit() else part for part in item[0].split(".")]


# By hand.


def by_hand(blocks, image, merge):
    """One image's tokens (T, C) through the blocks, token by token: the specification's words."""
    x, sizes = list(image), [1] * len(image)
    groups = [[place] for place in range(len(image))]
    for block, kept in zip(blocks, merge, strict=True):
        attention = block.token_mixer
        h = block.norm1(torch.stack(x))
        heads, width = attention.num_heads, attention.head_dim
        q, k, v = (t.unflatten(-1, (heads, width)) for t in attention.qkv(h).chunk(3, dim=-1))
        outputs, received = [], torch.zeros(len(x))
        for head in range(heads):
            scores = q[:, head] @ k[:, head].T * width**-0.5 + torch.tensor(sizes).log()
            rows = scores.softmax(dim=-1)
            received += rows.detach().sum(0)
            outputs.append(rows @ v[:, head])
        y = attention.proj(torch.cat(outputs, dim=-1))
        x = list(block.res_scale1(torch.stack(x)) + block.layer_scale1(y))
        order = sorted(range(len(x)), key=lambda token: -received[token])
        x, sizes, groups = ([each[i] for i in order] for each in (x, sizes, groups))
        if kept is not None and kept < len(x):
            x, sizes, groups = merged_by_hand(x, sizes, groups, kept)
        stacked = torch.stack(x)
        y = block.layer_scale2(block.mlp(block.norm2(stacked)))
        x = list(block.res_scale2(stacked) + y)
    home = {place: token for token, group in enumerate(groups) for place in group}
    return torch.stack([x[home[place]] for place in range(len(image))])


def merged_by_hand(x, sizes, groups, kept):
    """The most important token takes in no other; sizes add up; tokens are plain means."""
    cosine = torch.nn.functional.cosine_similarity
    members = [[token] for token in x[:kept]]
    sizes, groups = list(sizes), [list(group) for group in groups]
    for source in range(kept, len(x)):
        likeness = [float(cosine(x[source], x[other], dim=0).detach()) for other in range(1, kept)]
        goal = 1 + likeness.index(max(likeness))
        members[goal].append(x[source])
        sizes[goal] += sizes[source]
        groups[goal] += groups[source]
    means = [sum(tokens) / len(tokens) for tokens in members]
    return means, sizes[:kept], groups[:kept]


MERGES = [
    (None, None, None, None),
    (16, 12, 8, 16),
    (16, 15, 15, 14),
    (16, 2, 2, 2),
    (9, 11, 4, 3),
]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_are_merged_as_by_hand(merge, seed):
    model, images = tiny_caformer(seed=seed), tiny_images(3, side=64, seed=seed)
    entered = model.stages[2].downsample(model.stages[:2](model.stem(images)))
    entered = entered.flatten(2).mT.detach()
    plain = model.stages[2].blocks
    expected = torch.stack([by_hand(plain, image, merge) for image in entered])
    parameters = list(plain.parameters())
    wanted = torch.autograd.grad(expected.square().sum(), parameters)
    found = compress_(model, merge)(entered)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(found.square().sum(), parameters)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@pytest.mark.parametrize("merge", [(None,) * 4, (16,) * 4, (300, None, 16, 17)])
@torch.no_grad()
def test_counts_that_change_nothing_give_the_outputs_of_timm(merge):
    model, images = tiny_caformer(), tiny_images(3, side=64)
    expected = model(images)
    compress_(model, merge)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_tokens_are_put_back_before_the_fourth_stage():
    """Where all tokens are one, the fourth stage sees one value at all places."""
    model, images, seen = tiny_caformer(), tiny_images(2, side=64), []
    model.stages[3].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    compress_(model, (None, None, None, 2))
    model(images)
    assert seen[0].shape == (2, 64, 4, 4)
    values = [len(torch.unique(image.flatten(1), dim=1).T) for image in seen[0]]
    assert values == [2, 2]
