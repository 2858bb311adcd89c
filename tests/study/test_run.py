import json
import shutil
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from adacomcat.config.yaml import read_yaml, write_yaml
from adacomcat.io.trace import TraceWriter
from study.run import main
from study.spec.catalog import load_experiment
from study.spec.configfile import to_yaml
from study.spec.expand import expand
from study.store import Results

EXPERIMENT = ("--experiment", "adaptive_vs_fixed", "--workload", "synthetic")
EXPLORE = ("--experiment", "dp_coefficients", "--workload", "synthetic")
SHORT = ("--set", "search_phase.epochs=2", "--set", "finetune.epochs=1")


def test_the_script_lists_from_any_folder(script: Any, tmp_path: Path) -> None:
    out = script.run("--list", cwd=tmp_path)
    assert "rror" not in out and "arning" not in out
    for word in (
        "adaptive_vs_fixed",
        "Adaptive against fixed",
        "dp_coefficients",
        "budgets",
        "digits",
        "fashion_mnist",
        "synthetic",
    ):
        assert word in out


def test_the_script_does_not_let_its_folder_hide_other_modules(script: Any, tmp_path: Path) -> None:
    # As Python starts a script: with the script's folder at the head of the path.
    probe = f"""
import runpy, sys
sys.path[0], sys.argv = {str(script.path.parent)!r}, ["run.py", "--list"]
try:
    runpy.run_path({str(script.path)!r}, run_name="__main__")
finally:
    print(sys.path[0], {str(script.path.parent)!r} in sys.path)
"""
    out = script.finish(script.start_python("-c", probe, cwd=tmp_path))
    assert out.splitlines()[-1] == f"{script.path.parent.parent} False"


def test_a_dry_run_prints_its_trials_and_runs_nothing(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = script.call(*EXPERIMENT, "--seeds", 2, "--dry-run", "--set", "schedule.growth=3")
    lines = out.splitlines()
    adaptive = next(line for line in lines if line.startswith("synthetic-adaptive-s1-"))
    assert "adaptive(growth=3)" in adaptive and "pending" in adaptive
    oracle = next(line for line in lines if line.startswith("synthetic-oracle-s0-"))
    assert "synthetic-fixed_1-s0-" in oracle
    where = tmp_path / "results" / "adaptive_vs_fixed-synthetic"
    assert lines[-3] == "18 trials"
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
        (["--resume", "x", "--set", "a=1"], "--set: got ['a=1'], allowed: nothing with --resume"),
        (["--resume", "x", "--seeds", "3"], "--seeds: got 3, allowed: with --resume only to"),
        (["--resume", "x", "--extend"], "--extend: got (None, None), allowed: together with"),
        (["--resume", "x", "--workload", "digits"], "the study has it"),
        (["--config", "x", "--workload", "digits"], "nothing with --config"),
        ([*EXPERIMENT, "--estimate"], "--estimate: got True, allowed: together with --dry-run"),
        ([*EXPERIMENT, "--samples", "5"], "--samples: got 5, allowed: nothing: adaptive_vs_fixed"),
        ([*EXPLORE, "--samples", "0"], "--samples: got 0, allowed: 1 or more"),
        ([*EXPLORE, "--objectives", "val_acc,val_acc"], "each objective once"),
        ([*EXPLORE, "--objectives", "val_acc,serches"], "did you mean 'searches'?"),
        ([*EXPLORE, "--set", "schedule.growth=2"], "'dp_coefficients' searches schedule.growth"),
        ([*EXPLORE, "--set", "search.clock=per_epoch"], "'dp_coefficients' searches search.clock"),
        (
            [*EXPLORE, "--set", "schedule.kind=once"],
            "fixes it in its arms published, fixed_1, once",
        ),
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


@pytest.mark.parametrize("name", ["dp_coefficients", "budgets"])
def test_trials_of_one_epoch_are_explored_without_a_pruner(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ("--set", "search_phase.epochs=1", "--set", "finetune.epochs=0")
    asked = ("--experiment", name, "--workload", "synthetic", *one, "--results", str(tmp_path))
    assert main([*asked, "--dry-run"]) == 0
    assert "pruned after epochs: none" in capsys.readouterr().out


def exploration_file(folder: Path, **changes: Any) -> Path:
    """The `study.yaml` of an exploration, with other entries."""
    content = read_yaml(to_yaml(load_experiment("dp_coefficients", "synthetic", 1)))
    content["exploration"] |= changes
    path = folder / "study.yaml"
    path.write_text(write_yaml(content))
    return path


UPSIDE_DOWN = {"name": "growth", "setting": "schedule.growth", "kind": "float", "low": 3, "high": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ["searches", "searches"]}, "objectives: got ('searches', 'searches')"),
        ({"objectives": ["val_acc", "latency"]}, "objectives: got 'latency', allowed: macs"),
        ({"objectives": []}, "objectives: got [], allowed: one or more"),
        ({"space": [], "points": {}}, "space: got [], allowed: one or more"),
        ({"space": [UPSIDE_DOWN], "points": {}}, "space.growth.low: got 3.0, allowed: below high"),
        ({"smaples": 3}, "smaples: got 'smaples' (did you mean 'samples'?)"),
        ({"samples": 0}, "samples: got 0, allowed: 1 or more"),
        ({"samples": "many"}, "samples: got 'many'"),
    ],
)
def test_a_file_that_makes_no_sense_is_an_error_in_one_line(
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = exploration_file(tmp_path, **changes)
    assert main(["--config", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {path}: exploration.{message}")
    assert printed.err.count("\n") == 1 and printed.out == ""
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("study.json", "study.json: schema_version: got 99, allowed: up to 2; a newer one needs"),
        ("study.yaml", "study.yaml: schema_version: got 99, allowed: up to 2; a newer one needs"),
        ("trial.json", "trial.json: schema_version: got 99, allowed: up to 2; a newer one needs"),
    ],
)
def test_what_a_newer_version_wrote_is_not_resumed(
    file: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment = load_experiment("dp_coefficients", "synthetic", 1)
    results = Results(tmp_path)
    results.begin(experiment, command="", provenance={})
    results.add(expand(experiment)[0])
    path = next(tmp_path.rglob(file))
    text = path.read_text()
    newer = text.replace('"schema_version": 2', '"schema_version": 99')
    path.write_text(newer.replace("schema_version: 2", "schema_version: 99"))
    assert path.read_text() != text
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    monkeypatch.setattr(
        "study.execution.cluster.start", lambda **_: pytest.fail("it has started Ray")
    )
    for action in ("--resume", "--status"):
        assert main([action, str(tmp_path)]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count("\n") == 1
        assert printed.out == ""
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_the_directory_of_another_experiment_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    Results(root).begin(
        load_experiment("adaptive_vs_fixed", "synthetic", 1), command="", provenance={}
    )
    before = {path: path.read_bytes() for path in root.iterdir()}
    assert main([*EXPLORE, "--results", str(root)]) == 2
    message = f"--experiment: got 'dp_coefficients', allowed: 'adaptive_vs_fixed', which {root}"
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in root.iterdir()} == before
    # Neither are its files, when those of another one were put into their place.
    shutil.copy(exploration_file(tmp_path), root / "study.yaml")
    assert main(["--resume", str(root)]) == 2
    assert 'experiment: "adaptive_vs_fixed" -> "dp_coefficients"' in capsys.readouterr().err


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Somebody else's package in the current directory is not run, and a figure may print more.
    here, root = tmp_path / "here", tmp_path / "results"
    (here / "analysis").mkdir(parents=True)
    (here / "analysis" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    experiment = load_experiment("adaptive_vs_fixed", "synthetic", 1)
    results = Results(root)
    results.begin(experiment, command="", provenance={})
    for spec in expand(experiment):
        results.add(spec)
        # A finished trial without a trace would be one that no figure can use.
        with closing(TraceWriter(results.folder(spec.trial_id))) as trace:
            trace.epoch({"phase": "search", "epoch": 0, "step_epoch": 0, "searches": 0})
        summary = {"test_acc": 0.5, "searches": 3, "params": 1000, "dense_test_acc": 0.75}
        results.update(spec.trial_id, "finished", summary=summary)
    assert main([*EXPERIMENT, "--results", str(root), "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "all 9 trials have ended already" in printed
    assert "Dense model: 75.00%." in " ".join(printed.split())
    rows = [line.split() for line in printed.splitlines()]
    assert ["adaptive", "1", "50.00", "3.0", "1,000", "*"] in rows
    assert (root / "figures" / "accuracy_vs_searches.png").is_file()


LONG = (*EXPERIMENT, "--seeds", 1, "--set", "search_phase.epochs=5000", "--cpus-per-worker", 1)


def sizes(root: Path) -> list[int]:
    return [path.stat().st_size for path in sorted(root.glob("trials/*/epochs.jsonl"))]


def assert_interrupted(script: Any, root: Path, out: str) -> None:
    """One line says so, no trial is left running, and no worker writes on."""
    assert out.splitlines()[-1] == "interrupted; --resume, or the same command, runs what is left"
    for raw in ("Traceback", "rror", ".cc:", "SIGTERM"):
        assert raw not in out
    assert set(script.statuses(root)) == {"interrupted", "pending"}
    before = sizes(root)
    time.sleep(2)
    assert sizes(root) == before


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_second_driver_is_refused_and_an_interrupt_marks_what_was_running(
    script: Any, tmp_path: Path
) -> None:
    root = tmp_path / "r"
    driver = script.start(*LONG, "--results", root, cwd=tmp_path)
    script.wait_for(lambda: any(sizes(root)), driver)
    refused = script.call("--resume", root, status=2)
    assert refused.startswith("error: ") and "no driver at work" in refused
    driver.send_signal(signal.SIGINT)
    time.sleep(0.3)
    # Of somebody who is impatient.
    driver.send_signal(signal.SIGINT)
    assert_interrupted(script, root, script.finish(driver, status=130))


def trials_on_dashboard(line: str) -> list[str]:
    """What the dashboard, whose address ends a line, calls the actors of trials."""
    token = (Path.home() / ".ray" / "auth_token").read_text()
    url = f"{line.split()[-1]}/api/v0/actors?detail=1"
    with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"})) as reply:
        actors = json.load(reply)["data"]["result"]["result"]
    return sorted(actor["repr_name"] for actor in actors if actor["class_name"] == "Trial")


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_the_dashboard_tells_trials_apart_and_other_signals_end_a_study_as_ctrl_c_does(
    script: Any, tmp_path: Path
) -> None:
    root = tmp_path / "r"
    driver = script.start(*LONG, "--results", root, "--dashboard", cwd=tmp_path)
    line = driver.stdout.readline()
    script.wait_for(lambda: len(sizes(root)) == 2 and all(sizes(root)), driver)
    names = trials_on_dashboard(line)
    driver.send_signal(signal.SIGTERM)
    assert_interrupted(script, root, script.finish(driver, status=143))
    records = script.records(root).values()
    running = sorted(r["trial_id"] for r in records if r["status"] == "interrupted")
    assert names == running and len(running) == 2

    before = sum(sizes(root))
    driver = script.start(*LONG, "--results", root, cwd=tmp_path)
    script.wait_for(lambda: sum(sizes(root)) > before, driver)
    driver.send_signal(signal.SIGHUP)
    assert_interrupted(script, root, script.finish(driver, status=129))
