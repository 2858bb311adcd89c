"""Interleaved timing of several callables; ratios are robust to clock drift."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Variant = Callable[[], object]
"""A timed call."""
WARM_UP = 2
"""Calls that are thrown away: the first compiles, chooses kernels and fills caches."""
AT_LEAST_S = 0.02
"""Shortest stretch between two looks at the clock; faster calls are repeated within it."""


@dataclass(frozen=True)
class Times:
    """Seconds a call of one variant, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third; their difference is the spread (IQR)."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def over(self, other: "Times") -> "Times":
        """Ratios of this variant's times to another's, round by round."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return Times(tuple(own / its for own, its in pairs))

    def to_json(self) -> dict[str, Any]:
        low, high = self.quartiles
        return {"median_s": self.median, "q1_s": low, "q3_s": high, "seconds": list(self.seconds)}


def take_turns(
    variants: Mapping[str, Variant],
    *,
    repeats: int,
    device: str = "cpu",
    warm_up: int = WARM_UP,
    at_least_s: float = AT_LEAST_S,
) -> dict[str, Times]:
    """Time variants against each other, in one process and in rounds: each once a round, in an
    order that goes round as well.

    Args:
        variants: name -> what to call; it may leave work to the device, which is waited for.
        repeats: rounds.
        device: cpu or cuda.
        warm_up: calls of each variant before the first round, at least 1.
        at_least_s: a variant is called so often in a row that a stretch takes about this long.
    """
    calls = {}
    for name, variant in variants.items():
        for _ in range(warm_up):
            single_s = _stretch(variant, 1, device)
        calls[name] = max(1, round(at_least_s / max(single_s, 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeats):
            # Whoever comes after the largest finds the coldest cache: not always the same one.
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                found[name].append(_stretch(variants[name], calls[name], device))
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def wait(device: str) -> None:
    """Wait until the device has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _stretch(variant: Variant, calls: int, device: str) -> float:
    """Seconds a call, over some calls in a row."""
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        variant()
    wait(device)
    return (time.perf_counter() - started) / calls
