import copy
import math
import pickle
from fractions import Fraction

import pytest
import torch

from adacomcat.methods.tokens.counts import Counts
from adacomcat.models.timm_vit import VisionTransformerSteps
from adacomcat.models.tokens import TokenSequence


def form(patches=16, prefix=1, merges_only=False):
    return TokenSequence(
        "blocks",
        4,
        patches,
        prefix,
        prefix,
        False,
        merges_only,
        width=32,
        steps=VisionTransformerSteps(),
    )


def drawn(sites=3, granularity=1, seed=0, **shape):
    """Counts with logits that prefer something."""
    counts = Counts(sites, form(**shape), granularity)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        counts.logits.copy_(2 * torch.randn(counts.logits.shape, generator=source))
    counts.sample_()
    return counts


@pytest.mark.parametrize(
    ("patches", "granularity", "candidates", "kept"),
    [(196, 4, 49, 101), (196, 2, 98, 100), (196, 1, 196, 100), (256, 4, 64, 131)],
)
def test_the_start_is_that_of_the_published_code(patches, granularity, candidates, kept):
    counts = Counts(2, form(patches), granularity)
    assert counts.logits.shape == (2, candidates)
    assert counts.counts() == (kept, kept)


@pytest.mark.parametrize(("granularity", "kept"), [(4, 5), (2, 3), (1, 2)])
def test_the_fewest_that_can_be_left(granularity, kept):
    counts = Counts(1, form(196), granularity)
    with torch.no_grad():
        counts.logits[0, -1] = 1000.0
    counts.sample_()
    assert counts.counts() == (kept,)


def test_where_the_most_important_token_takes_in_none_two_are_left():
    counts = Counts(1, form(16, prefix=0, merges_only=True), 1)
    assert counts.candidates[-1] == 2


@pytest.mark.parametrize("granularity", [1, 2, 3, 4, 7])
def test_rounding_makes_no_token(granularity):
    """An expected count that is an integer stays one, for any number of patches."""
    for patches in range(1, 300):
        counts = Counts(1, form(patches, prefix=2), granularity)
        choices = range(patches, 0, -granularity)
        mean = Fraction(sum(choices), len(choices))
        assert counts.counts() == (math.ceil(mean) + 2,), patches


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_survival_is_the_probability_of_a_larger_count(prefix):
    counts = drawn(granularity=3, prefix=prefix)
    probabilities = counts.logits.detach().double().softmax(-1)
    for row in range(3):
        for rank in range(16 + prefix):
            chances = zip(counts.candidates, probabilities[row], strict=True)
            expected = sum(p for c, p in chances if c + prefix > rank)
            torch.testing.assert_close(
                counts.survival[row, rank].double(), expected, atol=1e-6, rtol=0
            )
    assert torch.allclose(counts.survival[:, :prefix], torch.ones(3, prefix))


def test_a_count_is_an_integer_with_the_gradient_of_the_expected_count():
    counts = drawn()
    assert torch.equal(counts.kept, counts.kept.round())
    assert counts.kept.tolist() == list(counts.counts())
    (gradient,) = torch.autograd.grad(counts.kept.sum(), counts.logits)
    chances = counts.logits.detach().double().softmax(-1)
    candidates = torch.tensor(counts.candidates).double()
    mean = (chances * candidates).sum(-1, keepdim=True)
    torch.testing.assert_close(
        mean[:, 0].tolist(), list(counts.expected_patches()), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(gradient.double(), chances * (candidates - mean), atol=1e-5, rtol=0)


def test_autocast_changes_no_count():
    for seed in range(20):
        counts = drawn(patches=196, seed=seed)
        kept, survival = counts.counts(), counts.survival
        with torch.autocast("cpu", dtype=torch.bfloat16):
            counts.sample_()
        assert counts.counts() == kept
        assert torch.equal(counts.survival, survival)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_go_their_own_way(copied):
    counts = drawn()
    other = copied(counts)
    assert other.counts() == counts.counts()
    with torch.no_grad():
        other.logits[:, 0] += 100.0
    other.sample_()
    assert other.counts() == (17, 17, 17)
    assert other.kept.requires_grad
    assert counts.counts() != other.counts()
    counts.kept.sum().backward()
    assert counts.logits.grad is not None and other.logits.grad is None


def test_logits_without_numbers_drop_nothing():
    counts = drawn()
    with torch.no_grad():
        counts.logits[1] = torch.nan
    counts.sample_()
    assert counts.counts()[1] == 17
    assert counts.kept[1].isnan()
