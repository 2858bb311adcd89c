"""Peak memory of one call of a variant, measured in a separate process.

On CPU it is the resident memory, on CUDA what PyTorch allocated. glibc is told to hand every freed
block back at once: left alone it keeps some, and what is freed in many pieces would look larger.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import settings_of

from adacomcat.timing import Variant, wait

MIB = 2**20
TITLES = ("peak MiB", "call MiB")


@dataclass(frozen=True)
class Memory:
    """Bytes in use once the model stood, and the most that were in use during one call."""

    base_bytes: int
    peak_bytes: int

    @property
    def call_bytes(self) -> int:
        """Peak memory of the call in addition to the model."""
        return self.peak_bytes - self.base_bytes

    @property
    def cells(self) -> tuple[int, int]:
        """Table row with the columns `TITLES`."""
        return self.peak_bytes // MIB, self.call_bytes // MIB


def memory_of_call(variant: Variant, arguments: argparse.Namespace) -> None:
    """In the process of one variant: call it once and write the memory to `--output`."""
    base = _held(arguments.device)
    variant()
    wait(arguments.device)
    found = {"base_bytes": base, "peak_bytes": _peak(arguments.device)}
    arguments.output.write_text(json.dumps(found))


def memory_of(script: str, variant: str, arguments: argparse.Namespace) -> Memory:
    """Run a script's `--variant` with the same flags in a fresh process.

    Args:
        script: path of a benchmark that calls `memory_of_call` where `--variant` is given.
        variant: one of its variants.
        arguments: its flags.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "memory.json"
        command = [sys.executable, script]
        given = settings_of(arguments) | {"variant": variant, "output": report}
        for name, value in given.items():
            if value is not None:
                command += [f"--{name.replace('_', '-')}", str(value)]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
        subprocess.run(command, check=True, env=environment)
        return Memory(**json.loads(report.read_text()))


def _held(device: str) -> int:
    """Bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return _resident("VmRSS")


def _peak(device: str) -> int:
    """The most bytes that were in use at once."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _resident("VmHWM")


def _resident(field: str) -> int:
    """Resident bytes of this process, now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not `ru_maxrss`: a child's begins with what its parent held.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    # Elsewhere (macOS, in bytes) only the peak is to be had without another library.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
