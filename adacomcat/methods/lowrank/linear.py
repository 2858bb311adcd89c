"""Linear layers as products of two thin ones, and their factorization.

Shapes: B batch, I inputs, O outputs, r rank, k columns of a spectrum.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adacomcat.methods.lowrank.factorize import Spectrum, decompose
from adacomcat.models.heads import LinearStandIn


class LowRankLinear(LinearStandIn):
    """`y = last(first(x))` with r units between: (B, ..., I) -> (B, ..., O)."""

    def __init__(
        self, inputs: int, outputs: int, rank: int, *, bias: bool, device: str | None = None
    ) -> None:
        super().__init__()
        self.in_features = inputs
        self.out_features = outputs
        self.first = nn.Linear(inputs, rank, bias=False, device=device)
        self.last = nn.Linear(rank, outputs, bias=bias, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def linear_sides(module: nn.Module, rest: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The layer as a product: (1, I, d) and (1, O, d), with what was cut off earlier behind it.

    A dense matrix is a product with the identity on its smaller side.
    """
    if isinstance(module, nn.Linear):
        weight = module.weight.detach()
        eye = torch.eye(min(weight.shape), dtype=weight.dtype, device=weight.device)
        outputs, inputs = weight.shape
        left, right = (eye, weight) if inputs <= outputs else (weight.mT, eye)
    else:
        assert isinstance(module, LowRankLinear)
        left, right = module.first.weight.detach().mT, module.last.weight.detach()
    left, right = left.unsqueeze(0), right.unsqueeze(0)
    if rest is not None:
        left, right = torch.cat([left, rest[0]], -1), torch.cat([right, rest[1]], -1)
    return left, right


def decompose_linear(
    module: nn.Module,
    rest: tuple[Tensor, Tensor] | None,
    metrics: tuple[Tensor | None, Tensor | None],
) -> Spectrum:
    """The layer's spectrum, in the metrics of its inputs and outputs where they are given."""
    left, right = linear_sides(module, rest)
    return decompose(left, right, *metrics)


def build_linear(module: nn.Module, spectrum: Spectrum, rank: int) -> LowRankLinear:
    """The leading `rank` columns as a layer, with the bias of `module`."""
    bias = bias_of(module)
    _, inputs, _ = spectrum.left.shape
    # On the meta device no random number is drawn for weights that are replaced at once.
    new = LowRankLinear(inputs, spectrum.right.shape[1], rank, bias=bias is not None, device="meta")
    # Copies: at full rank the factors would be the spectrum's own memory.
    first, last = spectrum.left[0, :, :rank].mT, spectrum.right[0, :, :rank]
    new.first.weight = nn.Parameter(first.clone(memory_format=torch.contiguous_format))
    new.last.weight = nn.Parameter(last.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        new.last.bias = nn.Parameter(bias.detach().clone())
    return new


def merge_linear(module: LowRankLinear) -> nn.Linear:
    """The dense layer that two factors stand for."""
    bias = bias_of(module)
    dense = nn.Linear(module.in_features, module.out_features, bias=bias is not None, device="meta")
    dense.weight = nn.Parameter((module.last.weight @ module.first.weight).detach())
    if bias is not None:
        dense.bias = nn.Parameter(bias.detach().clone())
    return dense


def carry_linear(
    state: Mapping[str, Tensor], power: int, spectrum: Spectrum, rank: int
) -> dict[str, Tensor]:
    """A moment of the layer in the parameters that `build_linear` made.

    With G the gradient of the product (I x O): that of the left factor is `G right`, of the right
    one `G^T left`. A dense layer has G itself; two factors have `G B` and `G^T A`, which the
    spectrum's maps turn into the same.
    """
    if "weight" in state:
        gradient = state["weight"]
        first = gradient.mT @ spectrum.right[0, :, :rank] ** power
        last = gradient @ spectrum.left[0, :, :rank] ** power
    else:
        first, last = state["first.weight"].mT, state["last.weight"]
        old = last.shape[1]
        first = first @ spectrum.right_map[0, :old, :rank] ** power
        last = last @ spectrum.left_map[0, :old, :rank] ** power
    carried = {"first.weight": first.mT.contiguous(), "last.weight": last}
    for name in ("bias", "last.bias"):
        if name in state:
            carried["last.bias"] = state[name].clone()
    return carried


def carry_bias(state: Mapping[str, Tensor], power: int) -> dict[str, Tensor]:
    """A moment of the layer that `merge_linear` made: the bias's alone, factors give no other."""
    return {"bias": state["last.bias"].clone()} if "last.bias" in state else {}


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias of a dense or factorized layer."""
    layer = module.last if isinstance(module, LowRankLinear) else module
    assert isinstance(layer, nn.Linear)
    return layer.bias
