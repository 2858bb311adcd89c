"""Every function against loops over images and tokens."""

import numpy as np
import pytest
import torch

from adacomcat.methods.tokens.compress import (
    Move,
    attention_rows,
    given,
    importance,
    keep,
    match,
    merge,
    put_back,
    size_bias,
    sources,
    take,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_rows_are_softmax_with_the_sizes_of_keys():
    q, k = drawn(2, 3, 2, 4), drawn(2, 3, 5, 4, seed=1)
    sizes = drawn(2, 5, seed=2).exp()
    found = attention_rows(q, k, 0.7, sizes)
    for b, h, row in np.ndindex(2, 3, 2):
        scores = [0.7 * float(q[b, h, row] @ k[b, h, n]) for n in range(5)]
        powers = np.array([float(sizes[b, n]) * np.exp(s) for n, s in enumerate(scores)])
        np.testing.assert_allclose(found[b, h, row], powers / powers.sum(), rtol=1e-5)
    # Sizes of 1 change nothing.
    ones = attention_rows(q, k, 0.7, torch.ones(2, 5))
    torch.testing.assert_close(ones, attention_rows(q, k, 0.7, None), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_softmax_is_in_float32(dtype):
    found = attention_rows(drawn(1, 1, 2, 4).to(dtype), drawn(1, 1, 5, 4).to(dtype), 1.0, None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 1, 2), rtol=0, atol=1e-6)
    assert size_bias(torch.full((1, 5), 3.0), dtype).dtype == dtype


def test_importance_is_the_mean_over_heads_and_rows():
    rows = drawn(2, 3, 4, 5)
    expected = sum(rows[:, h, r] for h, r in np.ndindex(3, 4)) / 12
    torch.testing.assert_close(importance(rows), expected)


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("count", [3, 6, 9])
def test_kept_are_the_prefix_and_the_most_important_in_order(prefix, count):
    scores = drawn(4, 9)
    # The prefix stays in front, however little it counts for.
    scores[:, :prefix] = -10
    for image, found in enumerate(keep(scores, count, prefix).tolist()):
        patches = sorted(range(prefix, 9), key=lambda n: -float(scores[image, n]))
        assert found == [*range(prefix), *patches[: count - prefix]]


def test_taken_are_the_rows_of_each_image():
    x, rows = drawn(2, 5, 3), torch.tensor([[4, 0, 0], [1, 3, 2]])
    found = take(x, rows)
    for b, n in np.ndindex(2, 3):
        assert torch.equal(found[b, n], x[b, rows[b, n]])
    assert torch.equal(take(x[..., 0], rows), found[..., 0])


def cosine(a, b):
    return float(a.double() @ b.double() / a.double().norm() / b.double().norm())


@pytest.mark.parametrize("fixed", [0, 1, 2])
@pytest.mark.parametrize("count", [3, 4, 8])
def test_each_source_goes_to_the_destination_most_like_it(fixed, count):
    x = drawn(3, 9, 4)
    found = match(x, count, fixed)
    assert found.assignment.shape == (3, count - fixed, 9 - count)
    for b, source in np.ndindex(3, 9 - count):
        likeness = [cosine(x[b, count + source], x[b, d]) for d in range(fixed, count)]
        best = int(np.argmax(likeness))
        assert found.target[b, source] == best
        assert found.assignment[b, :, source].tolist() == list(np.eye(count - fixed)[best])
        assert float(found.cosine[b, source]) == pytest.approx(likeness[best], abs=1e-6)


def test_matching_has_no_gradient():
    x = drawn(1, 6, 4).requires_grad_()
    assert not any(part.requires_grad for part in match(x, 4, 1))


@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_merged_are_plain_means_and_sizes_add_up(fixed):
    count = 4
    x, sizes = drawn(3, 9, 4), drawn(3, 9, seed=1).exp()
    found = match(x, count, fixed)
    added = given(sizes[:, count:], found.cosine, "exact")
    joined, grown = merge(x, sizes, found, added, fixed)
    assert joined.shape == (3, count, 4) and grown.shape == (3, count)
    for b, d in np.ndindex(3, count):
        members = [s for s in range(5) if found.target[b, s] + fixed == d]
        rows = [x[b, d], *(x[b, count + s] for s in members)]
        torch.testing.assert_close(joined[b, d], torch.stack(rows).mean(0))
        size = sizes[b, d] + sum(
            sizes[b, count + s] * max(float(found.cosine[b, s]), 0) for s in members
        )
        assert float(grown[b, d]) == pytest.approx(float(size), rel=1e-5)


def test_what_a_source_adds_to_a_size():
    sizes, likeness = torch.tensor([[2.0, 3.0, 4.0]]), torch.tensor([[0.5, -0.5, 0.0]])
    assert given(sizes, likeness, "exact").tolist() == [[1.0, 0.0, 0.0]]
    assert given(sizes, likeness, "reference").tolist() == [[1.0, -1.5, 0.0]]
    assert given(sizes, likeness, "sums").tolist() == [[2.0, 3.0, 4.0]]


def test_tokens_that_point_apart_take_no_size_away():
    # One destination, and sources on the other side of the origin: cosines of -1.
    x = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]]])
    sizes = torch.tensor([[1.0, 1.0, 3.0, 1.0]])
    found = match(x, 2, 1)
    assert found.cosine.tolist() == [[-1.0, -1.0]]
    _, exact = merge(x, sizes, found, given(sizes[:, 2:], found.cosine, "exact"), 1)
    assert exact.tolist() == [[1.0, 1.0]]
    # The published code goes below zero here, and then to no number.
    _, below = merge(x, sizes, found, given(sizes[:, 2:], found.cosine, "reference"), 1)
    assert below.tolist() == [[1.0, -3.0]]
    assert size_bias(exact, torch.float32).isfinite().all()
    assert not size_bias(below, torch.float32).isfinite().all()


def test_sizes_are_in_float32_where_tokens_are_not():
    x = drawn(1, 6, 4).bfloat16()
    found = match(x, 4, 1)
    _, sizes = merge(x, torch.ones(1, 6), found, given(torch.ones(1, 2), found.cosine, "sums"), 1)
    assert found.assignment.dtype == torch.bfloat16 and sizes.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        tokens, sizes = merge(x.float(), torch.ones(1, 6), found, torch.full((1, 2), 1 + 1e-3), 1)
    assert sizes.dtype == torch.float32
    assert float(sizes.sum()) == pytest.approx(4 + 2 * (1 + 1e-3), abs=1e-6)


def moved(seed, tokens, count, fixed):
    """A permutation and random targets: a merge of two images' tokens down to a count."""
    source = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(tokens, generator=source) for _ in range(2)])
    target = torch.randint(0, count - fixed, (2, tokens - count), generator=source)
    return Move(rows, target, fixed)


def followed(moves, image, tokens):
    """The groups of first tokens, in the order of the tokens that stand for them."""
    groups = [{n} for n in range(tokens)]
    for move in moves:
        if move is None:
            continue
        groups = [groups[n] for n in move.rows[image].tolist()]
        if move.target is not None:
            count = len(groups) - move.target.shape[1]
            kept = [set(group) for group in groups[:count]]
            for group, target in zip(groups[count:], move.target[image].tolist(), strict=True):
                kept[target + move.fixed] |= group
            groups = kept
    return groups


MOVES = [
    None,
    moved(0, 9, 6, 1),
    None,
    Move(torch.tensor([[2, 1, 0, 5], [0, 5, 4, 1]]), None, 0),
    moved(1, 4, 3, 0),
]


def test_sources_are_followed_through_drops_and_merges():
    found = sources(MOVES, torch.eye(9).expand(2, -1, -1))
    assert [mask.shape[1] for mask in found] == [9, 6, 6, 4, 3]
    for block, mask in enumerate(found):
        assert mask.dtype == torch.bool
        for image in range(2):
            groups = followed(MOVES[: block + 1], image, 9)
            assert [set(row.nonzero().flatten().tolist()) for row in mask[image]] == groups


def test_what_was_merged_is_put_back_in_its_place():
    moves = [moved(0, 9, 6, 1), None, moved(1, 6, 5, 0), moved(2, 5, 2, 1)]
    x = drawn(2, 2, 4)
    found = put_back(x, moves)
    assert found.shape == (2, 9, 4)
    for image in range(2):
        for row, group in enumerate(followed(moves, image, 9)):
            for position in group:
                assert torch.equal(found[image, position], x[image, row])
    assert torch.equal(put_back(x, [None, None]), x)
