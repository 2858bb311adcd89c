"""Compression of a model in one call, without labels and without training."""

import copy
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat import recipes
from adacomcat.budget import Unit
from adacomcat.checks import Refusal, require
from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.data.sample import unlabeled_sample
from adacomcat.io.directory import save
from adacomcat.methods.base import Method, SupportsOptionLosses
from adacomcat.methods.registry import DEFAULT, build_method
from adacomcat.models.registry import family_of, input_shape
from adacomcat.plan import Decision, Plan
from adacomcat.search.strategy import Strategy, find_strategy, strategies

LOG = logging.getLogger("adacomcat")
ENOUGH_IMAGES = 32
"""Below this, moments of the widest layers are noisy."""
Images = Tensor | Iterable[Tensor] | Path | str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Report of a compression.

    Attributes:
        method, strategy: names.
        unit: of the costs; see `BudgetConfig`.
        cost, dense_cost: of the whole counted model, compressed and dense.
        target: cost that was asked for.
        reduction: attained, `1 - cost / dense_cost`.
        params, dense_params: elements of all parameters, as PyTorch counts them.
        macs, dense_macs: multiply-accumulates of an image.
        decisions: site -> rank, or count of tokens; None: dense.
        losses: site -> estimated loss of its decision, where the strategy estimates losses; with
            `sensitivity` the squared error of the model's output, summed over an image's output.
        images: that were looked at.
        seconds: duration of the call.
        peak_bytes: largest memory of the process so far (CPU), or that the call allocated (CUDA).
    """

    method: str
    strategy: str
    unit: Unit
    cost: float
    dense_cost: float
    target: float
    reduction: float
    params: int
    dense_params: int
    macs: int
    dense_macs: int
    decisions: Mapping[str, Decision]
    losses: Mapping[str, float]
    images: int
    seconds: float
    peak_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return asdict(self) | {"decisions": dict(self.decisions), "losses": dict(self.losses)}


@dataclass(frozen=True)
class Compressed:
    """A compressed model.

    Attributes:
        model: of ordinary modules, in evaluation mode.
        plan: the decision for every site.
        report: costs, predicted losses and resources.
    """

    model: nn.Module
    plan: Plan
    report: Report

    def save(
        self,
        directory: Path | str,
        *,
        model_args: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the model as a directory that `adacomcat.load` and all commands open.

        Args:
            directory: made if missing.
            model_args: what `timm.create_model` was given, where the model does not tell.
            extra: anything JSON-able to keep beside the report.

        Raises:
            ValueError: as `adacomcat.save`.
        """
        notes = {"compress": self.report.to_json(), **(extra or {})}
        save(self.model, directory, plan=self.plan, model_args=model_args, extra=notes)


def compress(
    model: nn.Module,
    images: Images | None = None,
    *,
    reduction: float = 0.5,
    unit: Unit | None = None,
    method: str | Mapping[str, Any] = DEFAULT,
    strategy: str | None = None,
    count: int = 64,
    batch_size: int = 16,
    latency: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Compressed:
    """Compress a copy of a model, without labels and without training.

        model = timm.create_model("deit_small_patch16_224", pretrained=True)
        compressed = adacomcat.compress(model, "photos/", reduction=0.5)

    Images matter more than anything else: take some of what the model will see.

    Args:
        model: a dense model of a supported family, on any device; it stays as it is.
        images: a folder; or (N, C, H, W), or batches of them, normalized as the model wants them.
            None: weights alone decide.
        reduction: share of the dense model's cost to remove.
        unit: of the cost: `params` (weights without biases), `macs` (an image), or another unit of
            the method; None: its first one, which is `params` for low ranks.
        method: its name, or `name` and its settings, as `build_method` takes them.
        strategy: how the plan is found, `search.strategy` of a trial; one that needs no labels.
            None: `sensitivity` where there are images and the method estimates losses, else
            `uniform`.
        count: images to look at, at most; of a folder, drawn at random.
        batch_size: images of one forward, where they come as a tensor or a folder.
        latency: a table of `adacomcat latency`, for the unit `latency`.
        seed: of the draw of images, and of the strategy.

    Raises:
        ValueError: a model, a setting or images that are refused, or a reduction that is out of
            reach (the smallest reachable cost is named).
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _check_model(model)
    given = images is not None
    settings = {"name": method} if isinstance(method, str) else dict(method)
    bound = build_method(copy.deepcopy(model).eval(), recipes.one_shot(settings, images=given))
    kind = _strategy(bound, strategy, given)
    unit = next(iter(bound.units)) if unit is None else unit
    budget = bound.budget(BudgetConfig(unit=unit, reduction=reduction, latency=latency or {}))
    searching = kind(bound, SearchConfig(strategy=kind.name), budget, epochs=1, seed=seed)
    shown = _Shown(images, bound.model, count, batch_size, seed)
    searching.prepare_(shown)
    looked = shown.count > 0 or searching.needs_images or not given
    allowed = f"None with method {bound.name!r} of these settings: nothing looks at them"
    require(looked, "images", "some", allowed)
    proposal = searching.search((), 0, 0).proposal
    bound.commit_(proposal.plan)
    shape = input_shape(bound.model)
    report = Report(
        method=bound.name,
        strategy=kind.name,
        unit=unit,
        cost=proposal.cost + budget.fixed,
        dense_cost=budget.dense,
        target=budget.target + budget.fixed,
        reduction=budget.attained(proposal.cost),
        params=count_params(bound.model),
        dense_params=count_params(model),
        macs=count_macs(bound.model, shape),
        dense_macs=count_macs(model, shape),
        decisions=dict(proposal.plan.decisions),
        losses=dict(proposal.losses),
        images=shown.count,
        seconds=time.perf_counter() - started,
        peak_bytes=_peak_bytes(device),
    )
    return Compressed(bound.model, proposal.plan, report)


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """The preprocessing of a model's images, at the size that the model takes."""
    side = input_shape(model)[-1]
    return Preprocessing.of_model(family_of(model).preprocessing(model), side)


def _check_model(model: nn.Module) -> None:
    weights = next(model.parameters())
    half = weights.dtype == torch.float16 and weights.device.type == "cpu"
    require(not half, "model: data type", "float16 on the CPU", "float32 there, or a GPU")


def _strategy(method: Method, name: str | None, images: bool) -> type[Strategy]:
    """The strategy of a name, or the default one, once it is known that it can run here."""
    name = _default_strategy(method, images) if name is None else name
    found = find_strategy(name)
    blind = [known for known, each in strategies().items() if not each.uses_labels]
    allowed = f"one that needs no labels ({', '.join(sorted(blind))})"
    require(name in blind, "strategy", name, allowed)
    require(images or not found.needs_images, "images", None, f"some, with {name!r}")
    return found


def _default_strategy(method: Method, images: bool) -> str:
    """`sensitivity` where there are images, and the method and its settings allow it."""
    if not images or not isinstance(method, SupportsOptionLosses):
        return "uniform"
    try:
        method.check_estimate("sensitivity")
    except Refusal:
        return "uniform"
    return "sensitivity"


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Not at the top: Windows has no such module.

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Shown:
    """Images in batches on a model's device, checked and counted as they are looked at."""

    def __init__(
        self, images: Images | None, model: nn.Module, count: int, batch_size: int, seed: int
    ) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        require(count >= 1, "count", count, "1 or more")
        self.count = 0
        self._most = count
        self._shape, self._like = input_shape(model), next(model.parameters())
        self._images: Iterable[Tensor] = ()
        if isinstance(images, str | Path):
            sample = unlabeled_sample(Path(images), preprocessing_of(model), count=count, seed=seed)
            self._images = (batch for batch, _ in sample.batches(batch_size))
        elif isinstance(images, Tensor):
            self._images = images.split(batch_size)
        elif images is not None:
            self._images = images

    def __iter__(self) -> Iterator[Tensor]:
        allowed = f"tensors of shape (N, {', '.join(map(str, self._shape))})"
        for batch in self._images:
            is_tensor = isinstance(batch, Tensor)
            got = tuple(batch.shape) if is_tensor else type(batch).__name__
            sound = is_tensor and batch.ndim == 4 and tuple(batch.shape[1:]) == self._shape
            require(sound, "images", got, allowed)
            finite = bool(batch.isfinite().all())
            require(finite, "images", "values that are infinite or no numbers", "finite numbers")
            taken = batch[: self._most - self.count]
            self.count += len(taken)
            yield taken.to(self._like)
            if self.count >= self._most:
                break
        if 0 < self.count < ENOUGH_IMAGES:
            LOG.warning(
                "%d images: truncation errs about a tenth more than with 64; give %d or more",
                self.count,
                ENOUGH_IMAGES,
            )
