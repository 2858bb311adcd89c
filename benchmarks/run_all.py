"""All benchmarks that need no results of earlier studies, one after the other.

    python benchmarks/run_all.py
    python benchmarks/run_all.py --quick --only search_step train_step
    python benchmarks/run_all.py --device cuda

Each runs in a process of its own and leaves its JSON in a folder; then one table shows what every
bar asks and what was found. A bar that is missed is no error; a benchmark that breaks is.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timing import print_table

HERE = Path(__file__).parent
DEVICES = ("cpu", "cuda")
BF16 = ("--device", "cuda", "--dtype", "bfloat16")
TINY = ("--model", "deit_tiny_patch16_224", "--depth", "2", "--image-size", "64", "--repeats", "2")
FEW = (*TINY, "--batch-size", "4")


@dataclass(frozen=True)
class Benchmark:
    """A script and its flags; without any it runs as its bars want it, on a CPU.

    Attributes:
        name: of the script.
        quick: flags that make it short, to see whether it runs; None: there are none.
        cuda: flags for a GPU; None: it is none of a GPU's.
    """

    name: str
    quick: tuple[str, ...] | None = None
    cuda: tuple[str, ...] | None = None

    def flags(self, device: str, *, quick: bool) -> tuple[str, ...] | None:
        """None where it does not run."""
        if quick:
            return self.quick and (*self.quick, *(("--device", device) if self.cuda else ()))
        return () if device == "cpu" else self.cuda


BENCHMARKS = (
    Benchmark("search_step", FEW, (*BF16, "--batch-size", "64", "--repeats", "11")),
    Benchmark("factorize", TINY, ("--device", "cuda")),
    Benchmark("train_step", FEW, (*BF16, "--batch-size", "256", "--repeats", "21")),
    Benchmark(
        "inference",
        (*TINY, "--batch-sizes", "1", "--modes", "eager"),
        ("--device", "cuda", "--batch-sizes", "1", "8", "64", "256", "--dtypes", "bfloat16"),
    ),
    Benchmark(
        "inference_tokens",
        (*TINY, "--rate", "0.6", "--batch-sizes", "1", "--modes", "eager"),
        ("--device", "cuda", "--batch-sizes", "8", "256", "--dtypes", "bfloat16"),
    ),
    Benchmark(
        "end_to_end",
        (*FEW, "--images", "32"),
        (*BF16, "--batch-size", "256", "--images", "10240", "--workers", "16"),
    ),
    Benchmark(
        "search_share",
        FEW,
        (*BF16, "--batch-size", "64", "--repeats", "21", "--search-steps", "10"),
    ),
    Benchmark(
        "search_images",
        ("--workload", "synthetic", "--images", "64", "128", "--seeds", "3", "--stable", "2"),
        ("--device", "cuda"),
    ),
    Benchmark("image_folder"),
    Benchmark("study_overhead"),
)
NAMES = tuple(benchmark.name for benchmark in BENCHMARKS)


@dataclass(frozen=True)
class Result:
    """What a benchmark left."""

    name: str
    seconds: float
    record: dict[str, Any] | None
    """None: it broke."""

    @property
    def rows(self) -> Iterator[Sequence[object]]:
        """Of the summary; one a bar."""
        begin = (self.name, f"{self.seconds:.0f}")
        if self.record is None:
            yield (*begin, "BROKEN")
            return
        bars = self.record.get("bars", [])
        if not bars:
            yield (*begin, "no bar")
        for bar in bars:
            bound = f"{bar['kind']} {bar['bound']:g}"
            yield (*begin, bar["name"], bar["value"], bound, "met" if bar["met"] else "MISSED")


def run_one(benchmark: Benchmark, flags: Sequence[str], folder: Path) -> Result:
    """Run a benchmark, its output going where this process's goes."""
    output = folder / f"{benchmark.name}.json"
    # What an earlier run left must not pass for the result of one that breaks.
    output.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{benchmark.name}.py"), *flags, "--output", str(output)]
    print(f"\n== {benchmark.name} {' '.join(flags)}".rstrip(), flush=True)
    started = time.perf_counter()
    subprocess.run(command)
    seconds = time.perf_counter() - started
    record = json.loads(output.read_text()) if output.exists() else None
    return Result(benchmark.name, seconds, record)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=NAMES, default=NAMES, help="(default: all)")
    add("--quick", action="store_true", help="small settings, which meet no bar")
    add("--device", choices=DEVICES, default="cpu")
    add("--folder", type=Path, default=Path("results/benchmarks"), help="of the JSON")
    arguments = parser.parse_args()
    results = []
    for benchmark in (b for b in BENCHMARKS if b.name in arguments.only):
        flags = benchmark.flags(arguments.device, quick=arguments.quick)
        if flags is None:
            print(f"\n== {benchmark.name}: not with these flags")
            continue
        results.append(run_one(benchmark, flags, arguments.folder))
    print()
    titles = ("benchmark", "seconds", "figure", "value", "bar", "")
    print_table(titles, [row for result in results for row in result.rows])
    return int(any(result.record is None for result in results))


if __name__ == "__main__":
    sys.exit(main())
