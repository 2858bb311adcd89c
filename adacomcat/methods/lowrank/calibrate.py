"""Second moments of the inputs of sites, for activation-aware truncation.

Whitening (SVD-LLM, arXiv 2403.07378, section 3.2): with inputs of second moment `C = L L^T`,
truncating the spectrum of `L^T W` instead of W gives the product of rank r with the least expected
squared error. What is added here is the same for attention, where a product has an input on one or
both sides:

    fc1, fc2, head   left: the layer's input x
    qk               left: the query's input, with a one behind it for the bias;
                     right: the key's input
    vo               left: the head's own input, tokens mixed by its attention;
                     right: nothing, since errors of the output count alike in all channels

For qk the optimum is for queries and keys drawn independently, which tokens of one image are not.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.methods.lowrank.attention import attention_factors, between_of
from adacomcat.methods.lowrank.factorize import cholesky
from adacomcat.methods.lowrank.space import Site
from adacomcat.models.base import AttentionView
from adacomcat.parallel import sum_over_workers_

Metrics = tuple[Tensor | None, Tensor | None]


class _Moment:
    """A running mean of outer products, in the end over all workers."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.rows = 0

    def add(self, rows: Tensor) -> None:
        """Take (..., n, width); leading dimensions are kept apart."""
        # In float32 the moment of few or dependent rows has negative eigenvalues beyond the ridge.
        rows = rows.double()
        outer = rows.mT @ rows
        self.total = outer if self.total is None else self.total + outer
        self.rows += rows.shape[-2]

    def factor(self) -> Tensor:
        assert self.total is not None
        total = sum_over_workers_(self.total)
        rows = sum_over_workers_(total.new_tensor(self.rows))
        return cholesky(total / rows)


@torch.no_grad()
def input_metrics(
    model: nn.Module,
    sites: Sequence[Site],
    attentions: Mapping[str, AttentionView],
    batches: Iterable[Tensor],
    *,
    biases: bool,
) -> dict[str, Metrics]:
    """Site name -> Cholesky factors of the second moments on its left and right side.

    Args:
        model: a dense or committed model.
        sites: whose inputs to look at.
        attentions: name of the module -> the view of its dense attention.
        batches: images (B, C, H, W) on the model's device; this worker's share.
        biases: whether queries have a bias to keep.
    """
    moments: dict[str, tuple[_Moment, _Moment]] = {}
    hooks = []
    for site in sites:
        left, right = moments[site.name] = (_Moment(), _Moment())
        module = model.get_submodule(site.module)
        view = attentions.get(site.module)
        watch = _watch_linear(left) if view is None else _watch(site, view, left, right, biases)
        hooks.append(module.register_forward_pre_hook(watch, with_kwargs=True))
    training, seen = model.training, 0
    model.eval()
    try:
        for images in batches:
            model(images)
            seen += len(images)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    require(seen > 0, "images", "none", "one or more, with method.calibrated true")
    return {
        name: (left.factor(), right.factor() if right.total is not None else None)
        for name, (left, right) in moments.items()
    }


def _watch_linear(left: _Moment) -> Any:
    def hook(module: Any, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        left.add(inputs[0].detach().flatten(0, -2))

    return hook


def _watch(site: Site, view: AttentionView, left: _Moment, right: _Moment, biases: bool) -> Any:
    def hook(module: Any, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        x = inputs[0].detach()
        parts = attention_factors(view, module, biases=biases)
        has_bias = parts.q.shape[1] > x.shape[-1]
        with_one = torch.cat([x, torch.ones_like(x[..., :1])], -1) if has_bias else x
        if site.kind == "qk":
            left.add(with_one.flatten(0, 1))
            right.add(x.flatten(0, 1))
            return
        has_bias = parts.k.shape[1] > x.shape[-1]
        keys = torch.cat([x, torch.ones_like(x[..., :1])], -1) if has_bias else x
        q, k, bias = with_one[:, None] @ parts.q, keys[:, None] @ parts.k, None
        between = between_of(view, module)
        if between is not None:
            q, k, bias = between(q, k, *inputs[1:], **kwargs)
        scores = q @ k.mT * view.scale
        scores = scores if bias is None else scores + bias
        mixed = scores.softmax(-1) @ x[:, None]
        left.add(mixed.transpose(0, 1).flatten(1, 2))

    return hook
