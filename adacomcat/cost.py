"""Costs of a model: one definition of parameters, one of multiply-accumulates.

*Parameters* are what PyTorch counts: every element of every parameter. A budget in params counts
fewer, as ComCAT does: weights of the patch embedding, the attention, the MLP and the classifier,
without biases, norms, tokens and positions; see `Method.dense_cost`.

*MACs* are multiply-accumulates of matrix products and convolutions for one image, attention's two
products included; element-wise work, norms and softmax are not counted. Fused attention is opened
up for the count, since a fused kernel would count as nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Number = int | float | Tensor
"""A cost; a tensor of shape () where a search may change it."""


@dataclass(frozen=True)
class BlockMacs:
    """MACs of one transformer block, whatever the number of tokens that run through it.

    Attributes:
        linear: of the attention's linear layers, a token.
        scores: of the products of queries and keys, a pair of tokens.
        values: of the products of attention and values, a pair of tokens.
        mlp: of the MLP, a token.
        width: channels of a token.
    """

    linear: Number
    scores: Number
    values: Number
    mlp: Number
    width: int


def count_params(model: nn.Module) -> int:
    """Elements of all parameters, shared ones once, as PyTorch counts them."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image of shape (C, H, W), counted on the meta device."""
    on_meta = {
        name: tensor.detach().to("meta")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    dtype = next(model.parameters()).dtype
    image = torch.empty(1, *input_shape, device="meta", dtype=dtype)
    training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        functional_call(model, on_meta, (image,))
    model.train(training)
    return counter.get_total_flops() // 2
