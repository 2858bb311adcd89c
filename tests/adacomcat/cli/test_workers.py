"""Two workers, as torchrun starts them, find what one finds."""

import subprocess
import sys

import pytest

from adacomcat.io.run import Run

SEARCH = [
    "search",
    "--workload",
    "synthetic",
    "--set",
    "data.options.images=400",
    "--set",
    "dense.recipe.epochs=1",
    "--epochs",
    "2",
    "--schedule",
    "once",
    "--device",
    "cpu",
]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.timeout(240)
def test_two_workers_find_what_one_finds(cli, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli(*SEARCH, "--output", one).status == 0
    done = subprocess.run(
        [sys.executable, *TWO, "-m", "adacomcat", *SEARCH, "--output", str(two)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (two / "plan.json").read_text() == (one / "plan.json").read_text()
    alone, shared = (Run(f).record()["summary"] for f in (one, two))
    assert shared["test_loss"] == pytest.approx(alone["test_loss"], abs=1e-5)
    # The first worker alone writes, and prints.
    assert len((two / "epochs.jsonl").read_text().splitlines()) == 2
    assert done.stdout.count("search phase, epoch 1") == 1
    assert done.stdout.count("model in ") == 1
