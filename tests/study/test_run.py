import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from study.provenance import repository
from study.run import main
from study.store import Results

SCRIPT = repository() / "study" / "run.py"
EXPERIMENT = ("--experiment", "adaptive_vs_fixed", "--workload", "synthetic")
EXPLORE = ("--experiment", "dp_coefficients", "--workload", "synthetic")
SHORT = ("--set", "search_phase.epochs=2", "--set", "finetune.epochs=1")


def environment() -> dict[str, str]:
    """Of a user's shell: the packages are found by the script itself, not by PYTHONPATH."""
    hidden = ("PYTHONPATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_script_lists_from_any_folder(tmp_path: Path) -> None:
    done = script("--list", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("adaptive_vs_fixed", "How often must", "digits", "fashion_mnist", "synthetic"):
        assert word in done.stdout


def test_the_script_does_not_let_its_folder_hide_other_modules(tmp_path: Path) -> None:
    # As Python starts a script: with the script's folder at the head of the path.
    probe = f"""
import runpy, sys
sys.path[0], sys.argv = {str(SCRIPT.parent)!r}, ["run.py", "--list"]
try:
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
finally:
    print(sys.path[0], {str(SCRIPT.parent)!r} in sys.path)
"""
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{SCRIPT.parent.parent} False"


def test_the_script_prints_its_trials_and_runs_nothing(tmp_path: Path) -> None:
    done = script(*EXPERIMENT, "--seeds", "2", "--dry-run", "--set", "schedule.growth=3",
                  cwd=tmp_path)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    adaptive = next(line for line in lines if line.startswith("synthetic-adaptive-s1-"))
    assert "adaptive(growth=3)" in adaptive and "pending" in adaptive
    oracle = next(line for line in lines if line.startswith("synthetic-oracle-s0-"))
    assert "synthetic-fixed_1-s0-" in oracle
    where = tmp_path / "results" / "adaptive_vs_fixed-synthetic"
    assert lines[-3] == "16 trials"
    assert lines[-2].startswith("on this machine ")
    assert lines[-1] == f"results: {where}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--experiment: got None, allowed: adaptive_vs_fixed"),
        (["--experiment", "adaptiv_vs_fixed"], "did you mean 'adaptive_vs_fixed'?"),
        (["--experiment", "adaptive_vs_fixed", "--workload", "digit"], "did you mean 'digits'?"),
        ([*EXPERIMENT, "--seeds", "0"], "--seeds: got 0, allowed: 1 or more"),
        ([*EXPERIMENT, "--set", "search_phase.epohcs=3"], "did you mean 'epochs'?"),
        ([*EXPERIMENT, "--set", "search_phase.epochs=abc"], "search_phase.epochs: got 'abc'"),
        ([*EXPERIMENT, "--set", "schedule.kind=once"], "schedule.kind: got 'once', allowed: no"),
        ([*EXPERIMENT, "--set", "budget.reduction=0.999"], "budget.reduction: got 0.999"),
        ([*EXPERIMENT, "--list"], "--experiment, --list: got 'all of them', allowed: one of them"),
        (["--resume", "nowhere"], "study.json"),
        (["--resume", "x", "--set", "a=1"], "--set: got ['a=1'], allowed: with --resume only to"),
        (["--resume", "x", "--seeds", "3"], "--seeds: got 3, allowed: with --resume only to"),
        (["--resume", "x", "--extend"], "--extend: got (None, None), allowed: together with"),
        (["--resume", "x", "--workload", "digits"], "the study has it"),
        ([*EXPERIMENT, "--fork", "new"], "--fork: got PosixPath('new'), allowed: with --resume"),
        (["--config", "x", "--workload", "digits"], "nothing with --config"),
        ([*EXPERIMENT, "--estimate"], "--estimate: got True, allowed: together with --dry-run"),
        ([*EXPERIMENT, "--samples", "5"], "--samples: got 5, allowed: nothing: adaptive_vs_fixed"),
        ([*EXPLORE, "--samples", "0"], "--samples: got 0, allowed: 1 or more"),
        ([*EXPLORE, "--objectives", "val_acc,val_acc"], "each objective once"),
        ([*EXPLORE, "--objectives", "val_acc,serches"], "did you mean 'searches'?"),
        ([*EXPLORE, "--set", "schedule.growth=2"], "schedule.growth: got 2"),
        ([*EXPERIMENT, "--workers", "0"], "--workers: got 0"),
        ([*EXPERIMENT, "--workers", "2", "--executor", "tune"], "--executor: got 'tune'"),
    ],
)
def test_a_request_that_makes_no_sense_is_an_error_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--workers", "5"], "5 workers of 1 CPUs and 0 GPUs"),
        (["--cpus-per-worker", "64"], "1 workers of 64 CPUs"),
        (["--gpus-per-worker", "8", "--workers", "2"], "2 workers of 1 CPUs and 8 GPUs"),
    ],
)
def test_a_request_that_cannot_be_placed_is_an_error_and_no_hang(
    ray_cluster: Any,
    arguments: list[str],
    asked: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "r"
    assert main([*EXPERIMENT, *SHORT, "--results", str(root), *arguments]) == 2
    message = capsys.readouterr().err
    assert asked in message and "2 CPUs and 0 GPUs on 1 nodes" in message
    assert not root.exists()


def test_a_finished_study_is_summed_up_again_without_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from study.catalog import load_experiment
    from study.expand import expand

    experiment = load_experiment("adaptive_vs_fixed", "synthetic", 1)
    results = Results(tmp_path)
    results.begin(experiment, command="", provenance={})
    for spec in expand(experiment):
        results.add(spec)
        summary = {"test_acc": 0.5, "searches": 3, "params": 1000, "dense_test_acc": 0.75}
        results.update(spec.trial_id, "finished", summary=summary)
    assert main([*EXPERIMENT, "--results", str(tmp_path), "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "all 8 trials are finished already" in printed
    assert "dense model 75.00%" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["adaptive", "1", "50.00", "3.0", "1,000"] in rows
    assert (tmp_path / "figures" / "accuracy_vs_searches.png").is_file()


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_an_interrupt_marks_what_was_running(tmp_path: Path) -> None:
    root = tmp_path / "r"
    command = [sys.executable, str(SCRIPT), *EXPERIMENT, "--results", str(root), "--seeds", "1",
               "--set", "search_phase.epochs=5000", "--cpus-per-worker", "1"]  # fmt: skip
    driver = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while not any(p.stat().st_size for p in root.glob("trials/*/epochs.jsonl")):
            assert driver.poll() is None and time.monotonic() < deadline, driver.communicate()
            time.sleep(0.2)
        driver.send_signal(signal.SIGINT)
        out, err = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode == 130, err
    assert "interrupted; --resume, or the same command, runs what is left" in out
    assert err == ""
    status = {
        p.parent.name: json.loads(p.read_text())["status"] for p in root.glob("*/*/trial.json")
    }
    assert set(status.values()) == {"interrupted", "pending"}
    # No worker outlives the driver and goes on writing.
    sizes = [p.stat().st_size for p in sorted(root.glob("trials/*/epochs.jsonl"))]
    time.sleep(2)
    assert [p.stat().st_size for p in sorted(root.glob("trials/*/epochs.jsonl"))] == sizes
