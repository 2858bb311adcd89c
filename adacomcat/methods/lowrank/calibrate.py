"""Second moments on both sides of every site, for activation- and loss-aware truncation.

Whitening (SVD-LLM, arXiv 2403.07378, section 3.2): with inputs of second moment `C = L L^T`,
truncating the spectrum of `L^T W` instead of W gives the product of rank r with the least expected
squared error. Weighting the other side by the second moment of the gradient makes that the error of
the model's output, in the Kronecker-factored Gauss-Newton approximation (K-FAC, arXiv 1503.05671).

Shapes: B images, N tokens, D channels, H heads; x: tokens at the input of a module.

    site             left                              right
    fc1, fc2, head   E[x x^T]                          E[g g^T], g: gradient of the output
    qk, per head     E[x1 x1^T], x1: x with a one      E[g g^T], g_i = scale * sum_j dS_ij x_j,
                     behind it for the query bias      dS: gradient of the scaled scores
    vo, per head     E[m m^T], m = attention @ x       E[g g^T], g: gradient of the output

Gradients need no labels: they are those of `<u, f(x)>` for `u ~ N(0, I)`, so that their second
moment is that of the Jacobian of f. Without gradients the right sides of fc1, fc2, head and vo are
the identity; that of qk is the covariance of the keys under the attention of the query, since
softmax ignores whatever is constant along keys, or the plain second moment of the keys.

For qk the optimum is for queries and keys drawn independently, which tokens of one image are not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.methods.lowrank.attention import attention_factors, between_of
from adacomcat.methods.lowrank.config import Metrics as Kind
from adacomcat.methods.lowrank.factorize import cholesky
from adacomcat.methods.lowrank.space import Site
from adacomcat.models.base import AttentionView
from adacomcat.parallel import sum_over_workers_

Metrics = tuple[Tensor | None, Tensor | None]
"""Cholesky factors of the second moments on the left and the right side; None: the identity."""

INPUT_RIDGE, SCORE_RIDGE, OUTPUT_RIDGE = 1e-6, 1e-5, 1e-4
"""Shares of the mean eigenvalue added to a moment's diagonal: of inputs, of the keys' side of qk,
and of gradients, which are noisier."""
BLOCK = 512
"""Columns of a block of a product of rows with themselves."""
CHUNK = 4
"""Images of one forward and backward: the memory for gradients grows with it."""


class Moment:
    """A running sum of outer products, in the end the mean over all workers' rows."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.rows = 0

    def add(self, rows: Tensor, sign: int = 1) -> None:
        """Take rows (..., n, width); leading dimensions are kept apart.

        With sign -1 they are taken off, and do not count as rows. Sums are in float32 (float64 of
        such rows): what rounding leaves below zero, the ridge covers.
        """
        rows = rows if rows.dtype == torch.float64 else rows.float()
        width = rows.shape[-1]
        if self.total is None:
            self.total = rows.new_zeros(*rows.shape[:-2], width, width)
        # Of a symmetric sum the blocks above the diagonal are enough.
        columns = rows.unsqueeze(0) if rows.ndim == 2 else rows
        total = self.total.view(-1, width, width)
        blocks = [slice(start, start + BLOCK) for start in range(0, width, BLOCK)]
        for i, left in enumerate(blocks):
            for right in blocks[i:]:
                pair = columns[..., left].mT, columns[..., right]
                total[:, left, right].baddbmm_(*pair, alpha=sign)
        if sign > 0:
            self.rows += rows.shape[-2]

    def factor(self, ridge: float) -> Tensor:
        """Lower Cholesky factor (..., width, width) of the mean, float64."""
        assert self.total is not None
        total = sum_over_workers_(self.total.double())
        rows = sum_over_workers_(total.new_tensor(self.rows))
        mean = total.triu() / rows
        mean = mean + mean.triu(1).mT
        require(
            bool(mean.isfinite().all()),
            "calibration",
            "activations or gradients that are not finite",
            "finite ones: look at the images and at the model's precision",
        )
        return cholesky(mean, ridge)


@dataclass
class SiteMoments:
    """Both moments of a site; `right` stays empty where its side is the identity."""

    site: Site
    left: Moment = field(default_factory=Moment)
    right: Moment = field(default_factory=Moment)

    def metrics(self) -> Metrics:
        """Cholesky factors of both moments."""
        ridge = SCORE_RIDGE if self.site.kind == "qk" else OUTPUT_RIDGE
        right = None if self.right.total is None else self.right.factor(ridge)
        return self.left.factor(INPUT_RIDGE), right


def site_metrics(
    model: nn.Module,
    sites: Sequence[Site],
    attentions: Mapping[str, AttentionView],
    batches: Iterable[Tensor],
    *,
    kind: Kind,
    biases: bool,
    output: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> dict[str, Metrics]:
    """Site name -> Cholesky factors of the second moments on its left and right side.

    Args:
        model: a dense or committed model.
        sites: where to look.
        attentions: name of the module -> the view of its dense attention.
        batches: images (B, C, H, W) on the model's device; this worker's share.
        kind: `inputs`, `attention` or `gradients`; see `LowRankConfig.metrics`.
        biases: whether queries have a bias to keep.
        output: images -> the output whose error counts, (B, ...), each entry with weight one.
        generator: of the random directions; one a worker, with a seed of its own.

    Raises:
        ValueError: no images, or activations or gradients that are not finite.
    """
    moments = {site.name: SiteMoments(site) for site in sites}
    seen = 0
    with _watching(model, moments.values(), attentions, kind, biases):
        for images in (chunk for batch in batches for chunk in batch.split(CHUNK)):
            seen += len(images)
            if kind != "gradients":
                with torch.no_grad():
                    output(images)
                continue
            with torch.enable_grad():
                # No parameter takes a gradient: it reaches the sites from the images.
                found = output(images.detach().clone().requires_grad_())
                noise = torch.randn(found.shape, generator=generator).to(found)
                (noise * found).sum().backward()
    require(seen > 0, "images", "none", f"one or more, with method.metrics {kind!r}")
    # Each sum goes as its factor comes: all of both would be the peak of the memory.
    return {name: moments.pop(name).metrics() for name in list(moments)}


@contextmanager
def _watching(
    model: nn.Module,
    moments: Iterable[SiteMoments],
    attentions: Mapping[str, AttentionView],
    kind: Kind,
    biases: bool,
) -> Iterator[None]:
    """The model in evaluation mode, frozen, with hooks that add to the moments."""
    by_module: dict[str, list[SiteMoments]] = {}
    for each in moments:
        by_module.setdefault(each.site.module, []).append(each)
    training = model.training
    frozen = [p for p in model.parameters() if p.requires_grad]
    hooks = []
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(False)
        for name, found in by_module.items():
            module = model.get_submodule(name)
            watch: Any = _LinearWatch(found[0], kind)
            if name in attentions:
                by_kind = {each.site.kind: each for each in found}
                watch = _AttentionWatch(by_kind, attentions[name], kind, biases)
            hooks.append(module.register_forward_hook(watch, with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.train(training)


class _LinearWatch:
    """Adds the inputs of a linear layer, and its output's gradients where they are wanted."""

    def __init__(self, moments: SiteMoments, kind: Kind) -> None:
        self.moments, self.kind = moments, kind

    def __call__(
        self, module: nn.Module, inputs: tuple[Tensor, ...], kwargs: Any, output: Tensor
    ) -> None:
        self.moments.left.add(inputs[0].detach().flatten(0, -2))
        if self.kind == "gradients":
            output.register_hook(lambda g: self.moments.right.add(g.flatten(0, -2)))


class _AttentionWatch:
    """Adds the moments of an attention's qk and vo, in closed form from its input and gradient."""

    def __init__(
        self, moments: Mapping[str, SiteMoments], view: AttentionView, kind: Kind, biases: bool
    ) -> None:
        self.moments, self.view, self.kind, self.biases = moments, view, kind, biases

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> None:
        def add(gradient: Tensor | None) -> None:
            self._add(module, inputs, kwargs, gradient)

        if self.kind == "gradients":
            output.register_hook(lambda gradient: add(gradient.detach()))
        else:
            add(None)

    @torch.no_grad()
    def _add(
        self,
        module: nn.Module,
        inputs: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        gradient: Tensor | None,
    ) -> None:
        """Add one call's moments; the gradient is that of the output, (B, N, D)."""
        x = inputs[0].detach()
        parts = attention_factors(self.view, module, biases=self.biases)
        queries = _with_one(x, parts.q)
        q, k, bias = queries[:, None] @ parts.q, _with_one(x, parts.k)[:, None] @ parts.k, None
        between = between_of(self.view, module)
        if between is not None:
            q, k, bias = between(q, k, *inputs[1:], **kwargs)
        scores = q @ k.mT * self.view.scale
        attention = (scores if bias is None else scores + bias).softmax(-1)
        each = x[:, None]  # (B, 1, N, D), for all heads
        mixed = attention @ each
        if "vo" in self.moments:
            self.moments["vo"].left.add(_by_head(mixed))
            if gradient is not None:
                self.moments["vo"].right.add(gradient.flatten(0, 1))
        if "qk" not in self.moments:
            return
        self.moments["qk"].left.add(queries.flatten(0, 1))
        keys = self.moments["qk"].right
        if gradient is not None:
            # Through the values: dA = (dy Wo) (x Wv)^T, and through the softmax: dS.
            towards = (gradient[:, None] @ parts.o) @ (each @ parts.v).mT
            change = attention * (towards - (attention * towards).sum(-1, keepdim=True))
            keys.add(_by_head(change * self.view.scale @ each))
        elif self.kind == "attention":
            # Sum over queries of the covariance: E[x x^T] - E[x] E[x]^T under their attention.
            weights = attention.sum(-2).sqrt()  # (B, H, N)
            keys.add(_by_head(weights[..., None] * each))
            keys.add(_by_head(mixed), sign=-1)
        else:
            keys.add(x.flatten(0, 1))


def _with_one(x: Tensor, factor: Tensor) -> Tensor:
    """Tokens (B, N, D), with a one behind them where the factor (H, D or D + 1, d) has a bias."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1) if factor.shape[1] > x.shape[-1] else x


def _by_head(rows: Tensor) -> Tensor:
    """(B, H, N, D) -> (H, B N, D)."""
    return rows.transpose(0, 1).flatten(1, 2)
