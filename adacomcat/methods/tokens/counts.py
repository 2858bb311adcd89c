"""Differentiable token counts of the blocks.

Shapes: S sites (block and kind), K candidates, T tokens that enter the first block.

DiffRate (arXiv 2305.17997, section 3.3, equations 5 to 7): a softmax over candidate counts gives an
expected count, which is rounded up, and the probability that a token of some rank survives. What
differs from the original: all probabilities come of one product instead of a loop, in float32
whatever the surroundings compute in, and an expectation that only rounding lifted over an integer
is not taken for one more token.
"""

from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.methods.tokens.blocks import fixed_rows
from adacomcat.models.tokens import TokenSequence

ROUNDING = 1e-4
"""Tokens by which an expected count may exceed an integer and still be that integer."""


class Counts(nn.Module):
    """The logits of all sites in one tensor, with the derived probabilities and counts.

    Every site has the same candidates: all patches, and fewer by `granularity` each time, down to
    the fewest that can be left.

    Attributes:
        logits: (S, K), the architecture parameters.
        candidates: patches, falling.
        kept: (S,), tokens that each site keeps since the last `sample_`, prefix tokens included:
            integers, with the gradient of the expected count.
        survival: (S, T), the probability that the token of each rank is kept, by falling
            importance; 1 for prefix tokens.
    """

    logits: nn.Parameter
    patches: Tensor
    reach: Tensor

    def __init__(self, sites: int, form: TokenSequence, granularity: int) -> None:
        super().__init__()
        fewest = fixed_rows(form) - form.prefix + 1
        self.candidates = tuple(range(form.patches, fewest - 1, -granularity))
        self.prefix = form.prefix
        self.logits = nn.Parameter(torch.zeros(sites, len(self.candidates)))
        patches = torch.tensor(self.candidates)
        reach = torch.arange(form.tokens)[:, None] < patches + form.prefix
        self.register_buffer("patches", patches.float(), persistent=False)
        self.register_buffer("reach", reach.float(), persistent=False)
        self.sample_()

    def sample_(self) -> None:
        """Follow the logits. Nothing is drawn: the counts are the expected ones, rounded up."""
        with torch.autocast(self.logits.device.type, enabled=False):
            probabilities = self.logits.float().softmax(-1)
            # A sum, and not a matrix product, which a GPU may take in less than float32.
            expected = (probabilities * self.patches).sum(-1)
            self.survival = probabilities @ self.reach.T
        whole = (expected.detach() - ROUNDING).ceil() + self.prefix
        self.kept = through(whole, expected)
        self._expected = expected.detach()
        self._counts: tuple[int, ...] | None = None

    def counts(self) -> tuple[int, ...]:
        """`kept` as integers; copied from the device once after each `sample_`."""
        if self._counts is None:
            # NaN logits drop no tokens; the non-finite loss raises later.
            kept = self.kept.detach().nan_to_num(nan=self.prefix + self.candidates[0])
            self._counts = tuple(int(count) for count in kept.tolist())
        return self._counts

    def expected_patches(self) -> tuple[float, ...]:
        """Patches that each site is expected to keep, before they are rounded up."""
        return tuple(self._expected.tolist())

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles have no history: torch refuses to copy tensors that have.
        held = {"kept": self.kept.detach(), "survival": self.survival.detach()}
        return self.__dict__ | held


def through(value: Tensor, soft: Tensor) -> Tensor:
    """A value with the gradient of another; exactly that value, unlike `value - soft + soft`."""
    return value.detach() + (soft - soft.detach())
