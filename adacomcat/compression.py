"""Compression of a model in one call, without labels and without training."""

import copy
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adacomcat import recipes
from adacomcat.budget import Unit
from adacomcat.checks import require
from adacomcat.config import BudgetConfig, SearchConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.io.directory import save
from adacomcat.methods.registry import DEFAULT, build_method
from adacomcat.models.registry import input_shape
from adacomcat.plan import Decision, Plan
from adacomcat.search.strategy import find_strategy, strategies


@dataclass(frozen=True, kw_only=True)
class Report:
    """Report of a compression.

    Attributes:
        method, strategy: names.
        unit: of the costs; see `BudgetConfig`.
        cost, dense_cost: of the whole counted model, compressed and dense.
        target: what the cost might have been.
        reduction: attained, `1 - cost / dense_cost`.
        params, dense_params: elements of all parameters, as PyTorch counts them.
        macs, dense_macs: multiply-accumulates of an image.
        decisions: site -> rank, or count of tokens; None: dense.
        seconds: that the call took.
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
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return asdict(self) | {"decisions": dict(self.decisions)}


@dataclass(frozen=True)
class Compressed:
    """A compressed model.

    Attributes:
        model: of ordinary modules, in evaluation mode.
        plan: the decision for every site.
        report: what it costs.
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
    images: Tensor | Iterable[Tensor] | None = None,
    *,
    reduction: float = 0.5,
    unit: Unit | None = None,
    method: str | Mapping[str, Any] = DEFAULT,
    strategy: str = "uniform",
    batch_size: int = 16,
    seed: int = 0,
) -> Compressed:
    """Compress a copy of a model, without labels and without training.

        model = timm.create_model("deit_small_patch16_224", pretrained=True)
        compressed = adacomcat.compress(model, reduction=0.5)

    Args:
        model: a dense model of a supported family, on any device; it stays as it is.
        images: (N, C, H, W), or batches of them, normalized as the model wants them: what the
            method and the strategy may look at. None: weights alone decide.
        reduction: share of the dense model's cost to remove.
        unit: of the cost: `params` (weights without biases), `macs` (an image), or another unit of
            the method; None: its first one, which is `params` for low ranks.
        method: its name, or `name` and its settings, as `build_method` takes them.
        strategy: how the plan is found, `search.strategy` of a trial; one that needs no labels.
        batch_size: images of one forward, where they come as one tensor.
        seed: of whatever the strategy draws.

    Raises:
        ValueError: a model, a setting or images that are refused, or a reduction that is out of
            reach (the smallest reachable cost is named).
    """
    started = time.perf_counter()
    settings = {"name": method} if isinstance(method, str) else dict(method)
    settings = recipes.one_shot(settings, images=images is not None)
    kind = find_strategy(strategy)
    blind = [name for name, known in strategies().items() if not known.uses_labels]
    allowed = f"one that needs no labels ({', '.join(sorted(blind))})"
    require(strategy in blind, "strategy", strategy, allowed)
    copied = copy.deepcopy(model).eval()
    bound = build_method(copied, settings)
    unit = next(iter(bound.units)) if unit is None else unit
    budget = bound.budget(BudgetConfig(unit=unit, reduction=reduction))
    searching = kind(bound, SearchConfig(strategy=strategy), budget, epochs=1, seed=seed)
    given = images is not None
    require(given or not searching.needs_images, "images", None, f"some, with {strategy!r}")
    shown = _Shown(() if images is None else images, copied, batch_size)
    searching.prepare_(shown)
    looked = shown.count > 0 or searching.needs_images or not given
    allowed = f"None with method {bound.name!r} of these settings: nothing looks at them"
    require(looked, "images", "some", allowed)
    proposal = searching.search((), 0, 0).proposal
    bound.commit_(proposal.plan)
    shape = input_shape(copied)
    report = Report(
        method=bound.name,
        strategy=strategy,
        unit=unit,
        cost=proposal.cost + budget.fixed,
        dense_cost=budget.dense,
        target=budget.target + budget.fixed,
        reduction=budget.attained(proposal.cost),
        params=count_params(copied),
        dense_params=count_params(model),
        macs=count_macs(copied, shape),
        dense_macs=count_macs(model, shape),
        decisions=dict(proposal.plan.decisions),
        seconds=time.perf_counter() - started,
    )
    return Compressed(copied, proposal.plan, report)


class _Shown:
    """Images in batches on a model's device, checked and counted as they are looked at."""

    def __init__(
        self, images: Tensor | Iterable[Tensor], model: nn.Module, batch_size: int
    ) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        self.count = 0
        self._images = images.split(batch_size) if isinstance(images, Tensor) else images
        self._shape, self._like = input_shape(model), next(model.parameters())

    def __iter__(self) -> Iterator[Tensor]:
        allowed = f"tensors of shape (N, {', '.join(map(str, self._shape))})"
        for batch in self._images:
            is_tensor = isinstance(batch, Tensor)
            got = tuple(batch.shape) if is_tensor else type(batch).__name__
            sound = is_tensor and batch.ndim == 4 and tuple(batch.shape[1:]) == self._shape
            require(sound, "images", got, allowed)
            finite = bool(batch.isfinite().all())
            require(finite, "images", "values that are infinite or no numbers", "finite numbers")
            self.count += len(batch)
            yield batch.to(self._like)
