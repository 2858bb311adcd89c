"""Errors of a model's output with one module replaced, by forwards from its block on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 8
"""Images of one forward."""


class Replay:
    """A model on a few images, whose blocks' outputs are kept.

    With a module of block i replaced, the blocks before i give out what they gave before, at no
    cost; so does every block where the module stands behind them all.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        output: Callable[[Tensor], Tensor],
        images: Tensor,
    ) -> None:
        """
        Args:
            model: may be in training mode; its errors are those of evaluation.
            blocks: names of its blocks, in the order of the forward.
            output: images -> the output whose error counts, (B, ...), each entry with weight one.
            images: (B, C, H, W).
        """
        self.model, self._blocks, self._output = model, blocks, output
        self._chunks = images.split(CHUNK)
        self._kept: list[list[Any]] = []
        self._dense = self._record()

    @torch.no_grad()
    def error(self, name: str, module: nn.Module) -> float:
        """Squared error, summed over an image's output, with `module` in the place of that name.

        Returns:
            The mean over the images.
        """
        old = self.model.get_submodule(name)
        inside = [i for i, block in enumerate(self._blocks) if f"{name}.".startswith(f"{block}.")]
        first = inside[0] if inside else len(self._blocks)
        self.model.set_submodule(name, module)
        total, training = 0.0, self.model.training
        self.model.eval()
        try:
            for chunk, kept, dense in zip(self._chunks, self._kept, self._dense, strict=True):
                with self._skipping(kept[:first]):
                    found = self._output(chunk)
                total += float((found.double() - dense.double()).square().sum())
        finally:
            self.model.set_submodule(name, old)
            self.model.train(training)
        return total / sum(map(len, self._chunks))

    @torch.no_grad()
    def _record(self) -> list[Tensor]:
        """The outputs of each chunk; those of its blocks are kept."""
        found, training = [], self.model.training
        blocks = [self.model.get_submodule(name) for name in self._blocks]
        hooks = [block.register_forward_hook(self._keep) for block in blocks]
        self.model.eval()
        try:
            for chunk in self._chunks:
                self._kept.append([])
                found.append(self._output(chunk))
        finally:
            for hook in hooks:
                hook.remove()
            self.model.train(training)
        return found

    def _keep(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._kept[-1].append(output)

    @contextmanager
    def _skipping(self, outputs: Sequence[Any]) -> Iterator[None]:
        """The first blocks give out what they are told."""
        skipped = [self.model.get_submodule(name) for name in self._blocks[: len(outputs)]]
        for block, output in zip(skipped, outputs, strict=True):
            block.forward = lambda *inputs, output=output, **more: output
        try:
            yield
        finally:
            for block in skipped:
                del block.forward
