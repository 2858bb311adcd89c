"""All benchmarks, run one after the other.

    python benchmarks/run_all.py
    python benchmarks/run_all.py --quick --only search_step train_step
    python benchmarks/run_all.py --device cuda

Each runs in a process of its own and leaves its JSON in a folder; then one table compares every bar
with what was measured. A missed bar is not an error; a benchmark that breaks is.
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
    """A script and its flags; without quick or GPU flags it runs as its bars require, on a CPU.

    Attributes:
        name: of the record.
        quick: flags for a short run that only shows that it works; None if there are none.
        cuda: flags for a GPU; None if it does not run on one.
        script: its name, if it differs from that of the record.
        always: flags of every run.
    """

    name: str
    quick: tuple[str, ...] | None = None
    cuda: tuple[str, ...] | None = None
    script: str | None = None
    always: tuple[str, ...] = ()

    def flags(self, device: str, *, quick: bool) -> tuple[str, ...] | None:
        """The flags of a run; None where it does not run."""
        found = self.cuda if device != "cpu" else ()
        if quick:
            found = self.quick and (*self.quick, *(("--device", device) if self.cuda else ()))
        return None if found is None else (*self.always, *found)


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
        script="inference",
        always=("--method", "diffrate"),
    ),
    Benchmark(
        "end_to_end",
        (*FEW, "--images", "32"),
        (*BF16, "--batch-size", "256", "--images", "10240", "--workers", "16"),
    ),
    Benchmark("image_folder"),
)
NAMES = tuple(benchmark.name for benchmark in BENCHMARKS)


@dataclass(frozen=True)
class Result:
    """The record that a benchmark left."""

    name: str
    seconds: float
    record: dict[str, Any] | None
    """None if it broke."""

    @property
    def rows(self) -> Iterator[Sequence[object]]:
        """Rows of the summary, one for each bar."""
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
    """Run a benchmark with the output streams of this process."""
    output = folder / f"{benchmark.name}.json"
    # The record of an earlier run must not pass for that of one that breaks.
    output.unlink(missing_ok=True)
    script = HERE / f"{benchmark.script or benchmark.name}.py"
    command = [sys.executable, str(script), *flags, "--output", str(output)]
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
