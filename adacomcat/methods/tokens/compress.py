"""Token compression of one block: pruning, merging, and the sizes of merged tokens.

Shapes: B batch, N tokens, C channels, H heads, d width of a head, Q scoring rows, P tokens that
pruning leaves, M that merging leaves, D destinations and S = P - M sources of a merge, T tokens
that enter the first block.

Functions of tensors alone, of inference and of a search, after DiffRate (arXiv 2305.17997, sections
3.1 and 3.2, equations 2 to 4). What differs from the original: nothing is sorted that need not be,
merging is a product with the assignment (sums in one order, where scattering has none on a GPU),
and a similarity below zero takes no size away unless configured.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SizeRule = Literal["exact", "reference", "sums"]
"""Size that a merged token of size s adds to another at cosine c: `exact` s max(c, 0), `reference`
s c, `sums` s (CAFormer)."""


class Match(NamedTuple):
    """Assignment of sources to destinations.

    Attributes:
        target: (B, S), the row among the D destinations.
        assignment: (B, D, S), one-hot over D, in the type of the tokens.
        cosine: (B, S), of the source and its destination, in float32.
    """

    target: Tensor
    assignment: Tensor
    cosine: Tensor


def size_bias(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """Bias of proportional attention, log s of the keys: (B, N) -> (B, 1, 1, N)."""
    return sizes.log().to(dtype)[:, None, None]


def attention_rows(q: Tensor, k: Tensor, scale: float, sizes: Tensor | None) -> Tensor:
    """Attention of some queries to all keys, in float32.

    Args:
        q: (B, H, Q, d).
        k: (B, H, N, d).
        scale: of the scores.
        sizes: (B, N); None: all 1.

    Returns:
        (B, H, Q, N), rows of sum 1.
    """
    scores = ((q * scale) @ k.mT).float()
    if sizes is not None:
        scores = scores + size_bias(sizes, scores.dtype)
    return scores.softmax(-1)


def importance(rows: Tensor) -> Tensor:
    """Importance of tokens: the mean attention over heads and rows, (B, H, Q, N) -> (B, N)."""
    return rows.mean((1, 2))


def keep(scores: Tensor, count: int, prefix: int) -> Tensor:
    """The tokens that stay: those of the prefix first, then patches by falling importance.

    Args:
        scores: (B, N), the importance.
        count: how many stay, with the prefix.
        prefix: tokens in front, whose score does not count.

    Returns:
        (B, count), rows.
    """
    rows = scores[:, prefix:].topk(count - prefix, dim=1).indices + prefix
    first = torch.arange(prefix, device=rows.device).expand(rows.shape[0], -1)
    return torch.cat([first, rows], dim=1) if prefix else rows


def take(x: Tensor, rows: Tensor) -> Tensor:
    """The named rows of each image: (B, N, ...) by (B, R) -> (B, R, ...)."""
    images = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[images, rows]


@torch.no_grad()
def match(x: Tensor, count: int, fixed: int) -> Match:
    """Matching of the less important tokens, each with its most similar destination.

    Args:
        x: (B, P, C), by falling importance.
        count: M, the first so many stay.
        fixed: of these, the first so many take in no other.
    """
    assert fixed < count < x.shape[1]
    units = F.normalize(x, dim=-1)
    found = (units[:, fixed:count] @ units[:, count:].mT).max(dim=1)
    destinations = torch.arange(count - fixed, device=x.device)
    assignment = (found.indices[:, None] == destinations[:, None]).to(x.dtype)
    return Match(found.indices, assignment, found.values.float())


def given(sizes: Tensor, cosine: Tensor, rule: SizeRule) -> Tensor:
    """Sizes that sources add to their destinations, both arguments (B, S) -> (B, S)."""
    if rule == "sums":
        return sizes
    return sizes * (cosine.clamp(min=0.0) if rule == "exact" else cosine)


def merge(
    x: Tensor, sizes: Tensor, found: Match, added: Tensor, fixed: int
) -> tuple[Tensor, Tensor]:
    """Destinations as the plain mean of themselves and their sources.

    Args:
        x: (B, P, C), as `match` saw it.
        sizes: (B, M or more), of the tokens that stay.
        found: of `match`.
        added: (B, S), of `given`.
        fixed: as `match` had it.

    Returns:
        The M tokens that stay, (B, M, C), and their sizes, (B, M).
    """
    count = x.shape[1] - added.shape[1]
    members = 1 + found.assignment.sum(-1, keepdim=True)
    joined = (x[:, fixed:count] + found.assignment @ x[:, count:]) / members
    # No matrix product, so that sizes stay in float32 under autocast.
    grown = sizes[:, fixed:count] + (found.assignment * added[:, None]).sum(-1)
    if not fixed:
        return joined, grown
    return torch.cat([x[:, :fixed], joined], 1), torch.cat([sizes[:, :fixed], grown], 1)


class Move(NamedTuple):
    """Reordering of tokens by one block.

    Attributes:
        rows: (B, P), of `keep`.
        target: (B, S), of `match`; None: nothing was merged.
        fixed: as `match` had it.
    """

    rows: Tensor
    target: Tensor | None
    fixed: int


def sources(moves: Sequence[Move | None], before: Tensor) -> list[Tensor]:
    """Source tokens of each token, block by block.

    Args:
        moves: of the blocks; None: a block that changed nothing.
        before: (B, T, T), the identity.

    Returns:
        Masks (B, N', T) in bool, N' the tokens that a block leaves.
    """
    masks, mask = [], before.bool()
    for move in moves:
        if move is not None:
            mask = take(mask, move.rows)
            if move.target is not None:
                count = mask.shape[1] - move.target.shape[1]
                kept = mask[:, :count].float()
                rows = (move.target + move.fixed)[..., None].expand(-1, -1, mask.shape[2])
                mask = kept.scatter_add(1, rows, mask[:, count:].float()).bool()
        masks.append(mask)
    return masks


def put_back(x: Tensor, moves: Sequence[Move | None]) -> Tensor:
    """Restore all initial tokens as copies of the tokens they merged into: (B, N', C) -> (B, T, C).

    Only where nothing was dropped.
    """
    home: Tensor | None = None
    for move in moves:
        if move is None:
            continue
        assert move.target is not None
        count = move.rows.shape[1] - move.target.shape[1]
        kept = torch.arange(count, device=x.device).expand(x.shape[0], -1)
        places = torch.cat([kept, move.target + move.fixed], dim=1)
        # Rows are a permutation here, so that this writes each place once.
        went = torch.zeros_like(places).scatter(1, move.rows, places)
        home = went if home is None else went.gather(1, home)
    return x if home is None else take(x, home)
