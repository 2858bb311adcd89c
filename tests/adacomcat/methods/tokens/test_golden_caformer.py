"""CAFormer with merged tokens: against numbers of the published implementation where the folder
holds them, and against a loop over single tokens, written from the paper, where it does not.
"""

import functools

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
from adacomcat.testing.golden import Numbers
from adacomcat.testing.models import tiny_caformer, tiny_images

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


GOLDEN = Numbers.read("diffrate", "diffrate.npz").below(f"{FAMILY}/")
CASES = GOLDEN.folders("eval_")
needs_numbers = pytest.mark.skipif(
    not GOLDEN, reason=f"no reference numbers of CAFormer in {GOLDEN.source}"
)


def dims_and_depths(weights):
    """Widths and numbers of blocks of the stages, from weights in their authors' naming."""
    norms = [key.split(".") for key in weights if key.endswith(".norm1.weight")]
    stages = range(1 + max(int(key[1]) for key in norms))
    depths = [1 + max(int(key[2]) for key in norms if int(key[1]) == i) for i in stages]
    return [len(weights[f"stages.{i}.0.norm1.weight"]) for i in stages], depths


def images():
    """(B, 3, H, H), what all cases are of."""
    stored = (value for key, value in GOLDEN.items() if key.split("/")[-1] == "input")
    found = next(stored, None)
    return GOLDEN["input"] if found is None else found


def third_stage():
    """The blocks of the stage whose tokens are merged."""
    weights = GOLDEN.below("w/")
    return range(dims_and_depths(weights)[1][2]) if weights else []


def golden_model():
    """The model of the folder, of whatever geometry."""
    weights = GOLDEN.below("w/")
    dims, depths = dims_and_depths(weights)
    model = tiny_caformer(
        depths=depths,
        dims=dims,
        num_classes=len(weights["head.fc2.weight"]),
        side=images().shape[-1],
    )
    load_state_(model, weights, str(GOLDEN.source), new_head=False)
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
    expected = GOLDEN["dense_logits"]
    torch.testing.assert_close(golden_model()(images()), expected, rtol=0, atol=LOGITS)


class Eval:
    """A case of the folder, run once: logits, traces, and the cosines of the blocks that merge."""

    @torch.no_grad()
    def __init__(self, name):
        self.golden = GOLDEN.below(f"{name}/")
        self.model = golden_model()
        self.form = tokens_of(self.model)
        # Counts of the fourth stage follow, which keeps all its tokens.
        merge = [int(count) for count in self.golden["merge_kept"]][: self.form.depth]
        self.blocks, entered, matches = compress_(self.model, merge), [], []
        self.blocks.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
        plain = tokens_blocks.match
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                tokens_blocks, "match", lambda *a: matches.append(plain(*a)) or matches[-1]
            )
            self.logits = self.model(images())
        merging = [block for block, step in enumerate(self.blocks.steps) if step.merges]
        self.cosines = {b: found.cosine for b, found in zip(merging, matches, strict=True)}
        self.traces = self.blocks.trace(entered[0])


@functools.lru_cache(maxsize=1)
def eval_of(name):
    """The case of tests in a row, run once."""
    return Eval(name)


every_case = pytest.mark.parametrize("case", CASES)
every_block = pytest.mark.parametrize(
    ("case", "block"), [(case, block) for case in CASES for block in third_stage()]
)


@needs_numbers
@every_case
def test_golden_diffrate_caformer_logits(case):
    case = eval_of(case)
    torch.testing.assert_close(case.logits, case.golden["logits"], rtol=0, atol=LOGITS)


@needs_numbers
@every_case
def test_golden_diffrate_caformer_macs_of_case(case):
    case = eval_of(case)
    assert published(case.model, case.form, case.blocks.steps) == int(case.golden["flops"])


def block_of(case, block, key):
    """A case and a tensor of one of its blocks; none where both sides merge nothing."""
    case = eval_of(case)
    golden = case.golden.below(f"attnblock{block}/")
    merges = block in case.cosines
    assert "dst" not in golden or merges == (golden["dst"].numel() > 0)
    return case, golden[key] if merges else None


@needs_numbers
@every_block
def test_golden_diffrate_caformer_sizes(case, block):
    case, size = block_of(case, block, "size")
    if size is not None:
        # Sets, since the two may number the tokens otherwise.
        found = case.traces[block].sum(-1).float().sort().values
        torch.testing.assert_close(found, size.flatten(1).sort().values)


@needs_numbers
@every_block
def test_golden_diffrate_caformer_assignments(case, block):
    case, assign = block_of(case, block, "assign")
    if assign is not None:
        tokens = case.form.tokens
        assert torch.equal(partition(case.traces[block], tokens), partition(assign, tokens))


@needs_numbers
@every_block
def test_golden_diffrate_caformer_cosines(case, block):
    case, cosine = block_of(case, block, "node_max")
    if cosine is not None:
        found = case.cosines[block].sort().values
        wanted = cosine.flatten(1).sort().values
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_golden_diffrate_caformer_macs():
    """Numbers that the published implementation printed for 224 x 224 images."""
    model = tiny_caformer(side=224)
    form = tokens_of(model)
    steps = Rates((None,) * 4, (196, 163, 129, 196)).steps(form.tokens)
    assert published(model, form, steps) == 102_511_744


@pytest.fixture(scope="module")
def search():
    """The published step, done by us: the method, the logits of the model, and the golden ones."""
    golden = GOLDEN.below("train/")
    if not golden:
        pytest.skip(f"no search of a CAFormer in {GOLDEN.source}")
    model = golden_model()
    # Blocks that keep all tokens have one candidate.
    given = sorted(golden.below("rate_param/").items(), key=natural)
    rates = {name: v for name, v in given if len(v) > 1}
    if not rates:
        pytest.skip(f"no {golden.prefix}rate_param/<name> in {GOLDEN.source}")
    candidates = len(next(iter(rates.values())))
    config = DiffRateConfig(
        granularity=-(-tokens_of(model).patches // candidates),
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
    return golden, list(rates), method, model(images())


def test_golden_diffrate_caformer_search_counts(search):
    golden, _, method, _ = search
    merge = golden["merge_kept"].tolist()
    counts = dict(zip(method.rows, method.counts.counts(), strict=True))
    form = method.form
    assert counts == {form.site(b, "merge"): merge[b] for b in range(1, form.depth - 1)}


def test_golden_diffrate_caformer_search_logits(search):
    golden, _, _, logits = search
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=LOGITS)


def test_golden_diffrate_caformer_search_entropy(search):
    golden, _, _, logits = search
    entropy = torch.nn.functional.cross_entropy(logits, golden["labels"])
    assert entropy.item() == pytest.approx(float(golden["ce"]), abs=1e-5)


def test_golden_diffrate_caformer_search_gradients(search):
    golden, names, method, logits = search
    entropy = torch.nn.functional.cross_entropy(logits, golden["labels"])
    (gradient,) = torch.autograd.grad(entropy, method.counts.logits, retain_graph=True)
    for row, name in enumerate(names):
        expected = golden[f"grad_ce/{name}"]
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
