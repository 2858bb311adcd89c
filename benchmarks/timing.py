"""Shared code of the benchmarks: flags, interleaved timing, tables and targets.

Variants are timed in one process and in rounds (`adacomcat.timing`). A machine that slows down or
speeds up meanwhile does so for all of them: a ratio is taken within each round, and its median over
the rounds holds where a ratio of two medians would not.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from adacomcat.checks import require
from adacomcat.precision import autocast
from adacomcat.timing import Times


def parser_of(
    doc: str | None,
    *,
    benchmark: str,
    model: str | None,
    batch_size: int | None,
    repeats: int,
) -> argparse.ArgumentParser:
    """The flags that benchmarks share, with a benchmark's own defaults.

    Args:
        doc: the module's docstring, whose first line is shown.
        benchmark: names the record.
        model: of timm; None: it has no such flag.
        batch_size: images of a call; None: it has no such flag, and none for the precision.
        repeats: rounds of `take_turns`.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    add = parser.add_argument
    if model is not None:
        add("--model", default=model, help=f"a vision transformer of timm (default: {model})")
    if batch_size is not None:
        add("--batch-size", type=positive, default=batch_size, help=f"(default: {batch_size})")
        dtypes = ("float32", "bfloat16")
        add("--dtype", choices=dtypes, default="float32", help="bfloat16: autocast")
    add("--threads", type=positive, default=2, help="of PyTorch on the CPU (default: 2)")
    add("--repeats", type=positive, default=repeats, help=f"rounds (default: {repeats})")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--output", type=Path, default=Path(f"results/{benchmark}.json"))
    return parser


def positive(text: str) -> int:
    """A whole number from one on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, allowed: 1 or more")
    return number


def run(benchmark: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Run a benchmark; what the flags got wrong is one line and no traceback."""
    try:
        settle(arguments)
        benchmark(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")


def settle(arguments: argparse.Namespace) -> None:
    """Threads and seed of the process, as the flags have them.

    Raises:
        ValueError: no CUDA device where one is asked for.
    """
    there = arguments.device == "cpu" or torch.cuda.is_available()
    require(there, "--device", arguments.device, "cpu: PyTorch sees no CUDA device")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)


def precision(arguments: argparse.Namespace) -> AbstractContextManager[Any]:
    """Autocast with `--dtype bfloat16`."""
    return autocast(arguments.dtype == "bfloat16", torch.device(arguments.device))


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags for the record, without where it goes."""
    return {name: value for name, value in vars(arguments).items() if name != "output"}


@dataclass(frozen=True)
class Bar:
    """Target of a measured value."""

    name: str
    value: float
    kind: Literal["at least", "at most"]
    bound: float

    @property
    def met(self) -> bool:
        if self.kind == "at least":
            return self.value >= self.bound
        return self.value <= self.bound

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return f"{self.name:<40} {self.value:9.4g}   {self.kind} {self.bound:g}: {verdict}"


def print_bars(bars: Iterable[Bar]) -> None:
    """One line a bar."""
    for bar in bars:
        print(bar)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table: the first column to the left, the others to the right; a row may end early."""
    cells = [[_cell(cell) for cell in row] for row in (titles, *rows)]
    cells = [row + [""] * (len(titles) - len(row)) for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        right = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *right]).rstrip())


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


TIME_TITLES = ("median ms", "IQR ms")


def time_cells(times: Times) -> tuple[float, float]:
    """Table row with the columns `TIME_TITLES`."""
    low, high = times.quartiles
    return times.median * 1e3, (high - low) * 1e3


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Over the largest expected value."""
    expected = expected.detach().double()
    difference = (found.detach().double() - expected).abs().max()
    return float(difference / expected.abs().max())
