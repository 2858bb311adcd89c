"""Benchmarks as programs, on models cut down until they take seconds."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adacomcat.versions import repository

FOLDER = repository() / "benchmarks"
TINY = (
    "--model",
    "deit_tiny_patch16_224",
    "--depth",
    "2",
    "--image-size",
    "32",
    "--threads",
    "1",
    "--repeats",
    "3",
)
Run = Callable[..., subprocess.CompletedProcess[str]]
Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def run() -> Run:
    """Start a benchmark by its name, with flags."""

    def start(name: str, *flags: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, flags)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    return start


@pytest.fixture
def measure(run: Run, tmp_path: Path) -> Measure:
    """Run a benchmark on a model of two blocks; gives its record, with what it printed."""

    def measured(name: str, *flags: Any) -> dict[str, Any]:
        output = tmp_path / "found.json"
        done = run(name, *TINY, *flags, "--output", output)
        assert done.returncode == 0, done.stderr
        record: dict[str, Any] = json.loads(output.read_text())
        assert record["benchmark"] == name and record["provenance"]["versions"]["torch"]
        return record | {"printed": done.stdout}

    return measured


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that benchmarks share."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("timing")
