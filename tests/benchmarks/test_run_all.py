"""The benchmarks as a whole."""

import importlib
import json
import subprocess
import sys

import pytest
import torch

from adacomcat.versions import repository


@pytest.mark.slow
def test_all_that_are_asked_for_run_and_end_in_one_table(run, tmp_path):
    done = run(
        "run_all",
        "--quick",
        "--only",
        "inference_tokens",
        "factorize",
        "image_folder",
        "--folder",
        tmp_path / "json",
    )
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (tmp_path / "json").iterdir()}
    assert names == {"factorize", "inference_tokens"}
    assert "== inference_tokens --method diffrate" in done.stdout
    assert "== image_folder: not with these flags" in done.stdout
    _, _, summary = done.stdout.partition("benchmark ")
    rows = summary.splitlines()[1:]
    bars = [
        bar
        for name in ("factorize", "inference_tokens")
        for bar in json.loads((tmp_path / "json" / f"{name}.json").read_text())["bars"]
    ]
    # A small model has no bar of speed, and says so.
    assert len(bars) == 2 and [row.endswith("no bar") for row in rows] == [False, False, True]
    for row, bar in zip(rows, bars, strict=False):
        assert bar["name"] in row and row.endswith("met" if bar["met"] else "MISSED")


@pytest.mark.slow
def test_one_that_breaks_is_told_apart_and_its_old_record_is_gone(run, tmp_path):
    (tmp_path / "factorize.json").write_text('{"bars": []}')
    flags = ("--quick", "--only", "factorize", "--device", "cuda", "--folder", tmp_path)
    done = run("run_all", *flags)
    broken = not torch.cuda.is_available()
    assert done.returncode == int(broken)
    assert ("BROKEN" in done.stdout) is broken
    assert (tmp_path / "factorize.json").exists() is not broken


def test_they_are_run_and_imported_without_ray():
    """A GPU machine may have torch alone."""
    folder = repository() / "benchmarks"
    names = sorted(path.stem for path in folder.glob("*.py"))
    absent = ("ray", "optuna", "moocore", "pandas", "matplotlib")
    code = (
        "import importlib, sys\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_benchmark_is_in_the_list_of_all(monkeypatch):
    monkeypatch.syspath_prepend(str(repository() / "benchmarks"))
    listed = {b.script or b.name for b in importlib.import_module("run_all").BENCHMARKS}
    assert listed == {
        "search_step",
        "factorize",
        "train_step",
        "inference",
        "end_to_end",
        "image_folder",
    }
