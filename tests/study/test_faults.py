"""What a machine does to a study: kills, lost nodes, full disks and memory, closed outputs."""

import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from adacomcat.config.yaml import read_yaml, write_yaml
from adacomcat.versions import repository
from study.execution.memory import used_share
from study.store import Results

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

PAIR = max(2, psutil.cpu_count() or 2)
ARMS = ("never", "fixed_1", "adaptive")


def epochs_done(script: Any, root: Path) -> dict[str, int]:
    return {
        name: len(Results(root).epochs(record["trial_id"]))
        for name, record in script.records(root).items()
    }


def some_arms(undisturbed: Path, arms: Sequence[str], folder: Path) -> Path:
    """The undisturbed study with some of its arms, as a file in a folder."""
    config = read_yaml((undisturbed / "study.yaml").read_text())
    config["arms"] = [arm for arm in config["arms"] if arm["name"] in arms]
    path = folder / "study.yaml"
    path.write_text(write_yaml(config))
    return path


def assert_undisturbed(
    script: Any, root: Path, undisturbed: Path, arms: Sequence[str] = ARMS
) -> None:
    """A study of these arms has finished, with the traces of the undisturbed one."""
    assert script.statuses(root) == ["finished"] * len(arms)
    expected = script.traces(undisturbed / "results")
    assert script.traces(root) == {f"{arm}-0": expected[f"{arm}-0"] for arm in arms}


def workers_of(driver: subprocess.Popen[str], title: str) -> list[psutil.Process]:
    """Processes below a driver whose title holds a word."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(
    script: Any, ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder with a study of three arms and its results, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = folder / "study.yaml"
    whole = ("--experiment", "adaptive_vs_fixed", "--workload", "synthetic", "--seeds", 1)
    settings = ("--set", "search_phase.epochs=8", "--results", folder / "grid", "--dry-run")
    script.call(*whole, *settings)
    from study.spec.catalog import load_experiment
    from study.spec.configfile import write_config
    from study.spec.expand import apply_settings

    experiment = load_experiment("adaptive_vs_fixed", "synthetic", 1)
    arms = tuple(arm for arm in experiment.arms if arm.name in ARMS)
    small = experiment.model_copy(update={"arms": arms, "figures": ()})
    write_config(apply_settings(small, {"search_phase.epochs": 8}), config)
    script.call("--config", config, "--results", folder / "results")
    assert script.statuses(folder / "results") == ["finished"] * 3
    yield folder


@pytest.mark.smoke
def test_the_traces_after_a_killed_driver_are_those_of_an_undisturbed_run(
    script: Any, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    driver = script.start("--config", undisturbed / "study.yaml", "--results", root, cwd=tmp_path)

    def under_way() -> bool:
        done = epochs_done(script, root)
        return "finished" in script.statuses(root) and any(
            2 <= epochs < 9 and script.records(root)[name]["status"] == "running"
            for name, epochs in done.items()
        )

    script.wait_for(under_way, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {
        n: r["finished"] for n, r in script.records(root).items() if r["status"] == "finished"
    }
    files = {p: p.stat().st_mtime_ns for n in before for p in _trace_files(script, root, n)}

    script.call("--resume", root)
    assert script.statuses(root) == ["finished"] * 3
    # What was finished was not run again.
    assert {n: script.records(root)[n]["finished"] for n in before} == before
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert script.traces(root) == script.traces(undisturbed / "results")


def _trace_files(script: Any, root: Path, name: str) -> list[Path]:
    folder = Results(root).folder(script.records(root)[name]["trial_id"])
    return sorted(folder.glob("*.json*"))


@pytest.mark.parametrize(
    ("flags", "title", "arms"),
    [
        ((), "ray::Trial", ARMS),
        # Each of its runs starts three processes: one is enough.
        (("--executor", "train"), "RayTrainWorker", ARMS[1:2]),
    ],
)
def test_the_traces_after_a_killed_worker_are_those_of_an_undisturbed_run(
    script: Any,
    flags: tuple[str, ...],
    title: str,
    arms: tuple[str, ...],
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    fewer = some_arms(undisturbed, arms, tmp_path)
    root = tmp_path / "results"
    driver = script.start("--config", fewer, "--results", root, *flags, cwd=tmp_path)
    script.wait_for(
        lambda: any(2 <= epochs < 6 for epochs in epochs_done(script, root).values()), driver
    )
    victims = workers_of(driver, title)
    assert victims
    for victim in victims:
        victim.kill()
    script.finish(driver)
    assert_undisturbed(script, root, undisturbed, arms)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_traces_after_a_killed_ray_are_those_of_an_undisturbed_run(
    script: Any, name: str, undisturbed: Path, tmp_path: Path
) -> None:
    arms, root = ARMS[1:], tmp_path / "results"
    fewer = some_arms(undisturbed, arms, tmp_path)
    driver = script.start("--config", fewer, "--results", root, cwd=tmp_path)
    script.wait_for(
        lambda: any(2 <= epochs < 6 for epochs in epochs_done(script, root).values()), driver
    )
    (victim,) = (p for p in psutil.Process(driver.pid).children() if p.name() == name)
    victim.kill()
    out, _ = driver.communicate(timeout=300)
    if driver.returncode:
        # The driver was in the middle of a call to the dead process, which does not come back.
        assert driver.returncode == 1 and "running" not in script.statuses(root), out
        assert f"error: Ray's {name} has died; what was recorded is whole; --resume" in out
        script.call("--resume", root)
    else:
        assert f"Ray's {name} has died; starting Ray again (1 of 3)" in out.splitlines()
        assert_calm(out)
    assert_undisturbed(script, root, undisturbed, arms)


def assert_calm(out: str) -> None:
    """Nothing of Ray's own, and no traceback, is in what a driver has printed."""
    for raw in ("Traceback", "(raylet)", "state-dump", ".cc:", "rror"):
        assert raw not in out, out


def test_the_traces_after_a_killed_controller_are_those_of_an_undisturbed_run(
    script: Any, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    asked = ("--config", some_arms(undisturbed, ARMS[1:2], tmp_path), "--results", root)
    # All CPUs: where the dead controller's are not freed, nothing more can run.
    driver = script.start(*asked, "--workers", PAIR, cwd=tmp_path)
    script.wait_for(
        lambda: any(2 <= epochs < 6 for epochs in epochs_done(script, root).values()), driver
    )
    (victim,) = workers_of(driver, "TrainController")
    victim.kill()
    assert_calm(script.finish(driver))
    assert script.statuses(root) == ["finished"]


def test_a_trial_that_diverges_is_recorded_and_the_study_goes_on(
    script: Any, undisturbed: Path, tmp_path: Path
) -> None:
    config = read_yaml((undisturbed / "study.yaml").read_text())
    for arm in config["arms"]:
        if arm["name"] == "never":
            arm["overrides"]["search_phase.lr"] = 1000.0
    changed = tmp_path / "study.yaml"
    changed.write_text(write_yaml(config))
    root = tmp_path / "results"
    out = script.call("--config", changed, "--results", root, status=1)
    assert script.statuses(root) == ["failed", "finished", "finished"]
    error = script.records(root)["never-0"]["error"]
    assert error.startswith("NonFiniteLoss: search phase, epoch ") and "Traceback" in error
    assert f"failed: {script.records(root)['never-0']['trial_id']}: NonFiniteLoss" in out


NODES = """
import json, sys, threading, time
from pathlib import Path
import study.execution.environment
study.execution.environment.set_environment(dashboard=False)
import ray
from ray.cluster_utils import Cluster

root = Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

def under_way():
    # Both nodes are at work, and something is finished already.
    folders = {path.parent: json.loads(path.read_text())["status"]
               for path in root.glob("trials/*/trial.json")}
    running = [folder / "epochs.jsonl" for folder, status in folders.items() if status == "running"]
    rows = [len(path.read_bytes().splitlines()) for path in running if path.exists()]
    return "finished" in folders.values() and len(rows) == 2 and min(rows) >= 1

def lose():
    while not under_way():
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)
    print("lost a node", flush=True)

from study.run import main
threading.Thread(target=lose, daemon=True).start()
sys.exit(main(["--config", sys.argv[1], "--results", sys.argv[2]]))
"""


def test_a_lost_node_takes_no_finished_trial_with_it(
    script: Any, undisturbed: Path, tmp_path: Path
) -> None:
    config = read_yaml((undisturbed / "study.yaml").read_text())
    config["seeds"] = [0, 1]
    changed = tmp_path / "study.yaml"
    changed.write_text(write_yaml(config))
    root = tmp_path / "results"
    driver = script.start_python("-c", NODES, changed, root, cwd=repository())
    out = script.finish(driver)
    assert "lost a node" in out
    assert script.statuses(root) == ["finished"] * 6
    expected = script.traces(undisturbed / "results")
    assert {
        name: trace for name, trace in script.traces(root).items() if name in expected
    } == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system needs rights that this user lacks")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_study_with_what_is_finished_whole(
    script: Any, small_disk: Path, undisturbed: Path, tmp_path: Path
) -> None:
    root = small_disk / "results"
    driver = script.start("--config", undisturbed / "study.yaml", "--results", root, cwd=tmp_path)
    script.wait_for(lambda: "finished" in script.statuses(root), driver)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 512)
    out = script.finish(driver, status=1)
    assert "no space left" in out
    whole = [n for n, record in script.records(root).items() if record["status"] == "finished"]
    assert whole
    expected = script.traces(undisturbed / "results")
    assert {name: script.traces(root)[name] for name in whole} == {
        name: expected[name] for name in whole
    }

    filler.unlink()
    script.call("--resume", root)
    assert script.statuses(root) == ["finished"] * 3
    assert script.traces(root) == expected


HOG = """
import sys, time
from pathlib import Path
import psutil
from study.execution.memory import used_share
root, threshold = Path(sys.argv[1]), float(sys.argv[2])
while not any("running" in path.read_text() for path in root.glob("trials/*/trial.json")):
    time.sleep(0.02)
held, until = [], time.monotonic() + 10
while time.monotonic() < until:
    # No more than it takes, and never all: the machine is not ours alone.
    if used_share() < threshold + 0.03 and psutil.virtual_memory().available > 2**31:
        held.append(bytearray(b"x") * 2**28)
    else:
        time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("flags", "arms"),
    [((), ARMS), (("--executor", "train"), ARMS[1:2])],
    ids=["tune", "train"],
)
def test_a_study_outlives_another_process_that_takes_the_memory(
    script: Any, flags: tuple[str, ...], arms: tuple[str, ...], undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    # Room for the study and for what others do; what is left, the other process takes.
    room = (6 if flags else 4) * 2**30
    threshold = used_share() + room / psutil.virtual_memory().total
    hog = script.start_python("-c", HOG, root, threshold, cwd=repository())
    asked = ("--config", some_arms(undisturbed, arms, tmp_path), "--results", root, *flags)
    driver = script.start(*asked, cwd=tmp_path, RAY_memory_usage_threshold=f"{threshold:.3f}")
    out = script.finish(driver)
    assert script.finish(hog) == ""
    assert_undisturbed(script, root, undisturbed, arms)
    said = [line for line in out.splitlines() if "short of memory; going on with" in line]
    assert said and len(said) == out.count("short of memory")
    assert_calm(out)


def test_a_reader_that_goes_away_does_not_end_a_study(
    script: Any, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    arms = some_arms(undisturbed, ARMS[:1], tmp_path)
    driver = script.start("--config", arms, "--results", root, cwd=tmp_path)
    assert driver.stdout is not None and "started" in driver.stdout.readline()
    driver.stdout.close()
    assert driver.wait(timeout=300) == 0
    assert script.statuses(root) == ["finished"]
    assert f"results: {root}" in (root / "study.log").read_text()
