"""An exploration as its users have it: begun, killed, resumed, widened and varied."""

import csv
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from adacomcat.config.yaml import read_yaml, write_yaml
from adacomcat.io.trace import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SAMPLES = 4
REFERENCES = ["published", "fixed_1", "once"]
OVER = ("finished", "stopped")
TABLES = ("arms.csv", "front.csv", "importance.json")
EXPLORE = (
    "--experiment",
    "dp_coefficients",
    "--workload",
    "synthetic",
    "--seeds",
    1,
    "--samples",
    SAMPLES,
    "--set",
    "search_phase.epochs=5",
    "--set",
    "finetune.epochs=1",
    "--set",
    "data.options.images=400",
)
TWO_CPUS = json.dumps({"CPU": 2})
"""Two trials at a time, on whatever machine, as on the Ray of the tests' session."""


@dataclass(frozen=True)
class Explored:
    """An exploration whose driver was killed on the way, and that was resumed to its end.

    Attributes:
        root: its results directory.
        status: the page of `--status` while the first driver lived.
        ended: arm and seed -> `trial.json`, of those that had ended when it was killed.
        files: of these, and when they were written.
        resumed: what the second driver printed.
    """

    root: Path
    status: str
    ended: dict[str, Any]
    files: dict[Path, int]
    resumed: str


def written(*folders: Path) -> dict[Path, int]:
    """Files -> when they were written; not the lock of a worker, which outlives the record."""
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in found if path.suffix != ".lock"}


def folder_of(root: Path, record: dict[str, Any]) -> Path:
    return root / "trials" / record["trial_id"]


def optuna_study(root: Path) -> optuna.Study:
    """As a user opens it."""
    storage = JournalStorage(JournalFileBackend(str(root / "optuna.journal")))
    return optuna.load_study(study_name="dp_coefficients", storage=storage)


def table(root: Path, name: str) -> list[dict[str, str]]:
    with (root / name).open(newline="") as file:
        return list(csv.DictReader(file))


def means(root: Path, trial: optuna.trial.FrozenTrial) -> list[float]:
    """Accuracy and searches at the end, over the seeds of an arm."""
    last = [read_rows(root / t / "epochs.jsonl")[-1] for t in trial.user_attrs["trials"]]
    return [float(np.mean([row[name] for row in last])) for name in ("val_acc", "searches")]


def events(out: str) -> list[list[str]]:
    """The lines that tell of a trial: what happened, and its id."""
    words = (line.split() for line in out.splitlines())
    happened = ("started", "finished", "stopped", "failed", "interrupted")
    return [w[1:3] for w in words if len(w) > 2 and w[1] in happened and w[2][:9] == "synthetic"]


@pytest.fixture(scope="module")
def explored(
    script: Any, ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Explored]:
    folder = tmp_path_factory.mktemp("explored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", TWO_CPUS)
        yield explore(script, folder)


def explore(script: Any, folder: Path) -> Explored:
    root = folder / "results"
    driver = script.start(*EXPLORE, "--results", root, cwd=folder)
    script.wait_for(lambda: "running" in script.statuses(root), driver)
    status = script.call("--status", root)

    def midway() -> bool:
        there = script.records(root).values()
        suggested = any(r["status"] in OVER for r in there if r["arm"] not in REFERENCES)
        running = [folder_of(root, r) / "epochs.jsonl" for r in there if r["status"] == "running"]
        return suggested and any(len(read_rows(path)) >= 2 for path in running)

    script.wait_for(midway, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    ended = {name: r for name, r in script.records(root).items() if r["status"] in OVER}
    files = written(*(folder_of(root, record) for record in ended.values()))
    resumed = script.call("--resume", root)
    return Explored(root, status, ended, files, resumed)


@pytest.fixture
def copied(explored: Explored, tmp_path: Path) -> Path:
    """The finished exploration, to be changed."""
    return Path(shutil.copytree(explored.root, tmp_path / "copied"))


def test_what_had_ended_when_the_driver_was_killed_is_not_run_again(
    script: Any, explored: Explored
) -> None:
    records = script.records(explored.root)
    assert {name: records[name] for name in explored.ended} == explored.ended
    assert {path: path.stat().st_mtime_ns for path in explored.files} == explored.files
    again = {trial_id for _, trial_id in events(explored.resumed)}
    assert again and not again & {record["trial_id"] for record in explored.ended.values()}
    # One of each kind at least, or this file tests less than it says.
    assert set(script.statuses(explored.root)) == {"finished", "stopped"}
    for record in records.values():
        rows = read_rows(folder_of(explored.root, record) / "epochs.jsonl")
        epochs = 6 if record["status"] == "finished" else record["stopped"]["rung"]
        assert [row["step_epoch"] for row in rows] == list(range(epochs))
    assert {arm: records[f"{arm}-0"]["status"] for arm in REFERENCES} == dict.fromkeys(
        REFERENCES, "finished"
    )


def test_optuna_has_every_arm_once_and_the_means_of_the_store(
    script: Any, explored: Explored
) -> None:
    study, records = optuna_study(explored.root), script.records(explored.root)
    told = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert len(study.trials) == len(REFERENCES) + SAMPLES
    arms = [trial.user_attrs["arm"] for trial in study.trials]
    assert arms[:3] == REFERENCES and {f"{arm}-0" for arm in arms} == records.keys()
    for trial in study.trials:
        record = records[f"{trial.user_attrs['arm']}-0"]
        assert trial.state == told[record["status"]]
        assert trial.user_attrs["trials"] == [f"trials/{record['trial_id']}"]
        assert trial.user_attrs["seeds"] == [0]
        assert trial.user_attrs.get("commit") == record["provenance"]["git_commit"]
        if trial.state == TrialState.COMPLETE:
            assert trial.values == means(explored.root, trial)
        else:
            assert trial.values is None
            assert trial.user_attrs["stopped"] == record["stopped"]


def test_the_tables_and_the_front_are_those_of_optuna(explored: Explored) -> None:
    study = optuna_study(explored.root)
    rows = {row["arm"]: row for row in table(explored.root, "arms.csv")}
    assert rows.keys() == {trial.user_attrs["arm"] for trial in study.trials}
    assert [arm for arm, row in rows.items() if row["reference"] == "True"] == REFERENCES
    front = {row["arm"] for row in table(explored.root, "front.csv")}
    assert front == {trial.user_attrs["arm"] for trial in study.best_trials}
    assert {trial.state for trial in study.best_trials} == {TrialState.COMPLETE}
    found = json.loads((explored.root / "importance.json").read_text())
    assert found["importance"].keys() == {"val_acc", "searches"}


def test_the_status_of_a_study_while_its_driver_lives_and_after(
    script: Any, explored: Explored
) -> None:
    lines = [line.rstrip() for line in explored.status.splitlines()]
    assert "driver      at work" in lines
    assert "running" in next(line for line in lines if line.startswith("trials "))
    assert any(line.endswith(f" of {SAMPLES} ended") for line in lines)

    before = written(explored.root)
    page = script.call("--status", explored.root)
    lines = [line.rstrip() for line in page.splitlines()]
    assert "driver      none, and nothing is left" in lines
    assert f"samples     {SAMPLES} of {SAMPLES} ended" in lines
    rows = [line.split() for line in page.splitlines()]
    for arm, row in ((r["arm"], r) for r in table(explored.root, "arms.csv")):
        shown = next(words for words in rows if words[:1] == [arm])
        assert ("*" in shown) == (row["on_front"] == "True") and row["status"] in shown
    assert written(explored.root) == before


def test_a_finished_study_is_resumed_without_running_anything(
    script: Any, explored: Explored, copied: Path
) -> None:
    for name in TABLES:
        (copied / name).unlink()
    before = written(copied / "trials")
    out = script.call("--resume", copied)
    assert f"all {len(REFERENCES) + SAMPLES} trials have ended already" in out
    assert not events(out)
    assert written(copied / "trials") == before
    assert len(optuna_study(copied).trials) == len(REFERENCES) + SAMPLES
    # What was lost of the tables is written anew.
    for name in TABLES:
        assert (copied / name).read_bytes() == (explored.root / name).read_bytes()


def test_an_extension_adds_seeds_to_what_had_finished_and_then_an_arm(
    script: Any, ray_cluster: Any, explored: Explored, copied: Path
) -> None:
    old = script.records(copied)
    finished = {record["arm"] for record in old.values() if record["status"] == "finished"}
    before = written(copied / "trials")
    out = script.call("--resume", copied, "--extend", "--seeds", 2, "--quiet")
    # What had been stopped stays with one seed.
    new = script.records(copied)
    assert new.keys() - old.keys() == {f"{arm}-1" for arm in finished}
    assert {new[f"{arm}-1"]["status"] for arm in finished} == {"finished"}
    assert before.items() <= written(copied / "trials").items()
    assert len(optuna_study(copied).trials) == len(REFERENCES) + SAMPLES
    for row in table(copied, "arms.csv"):
        assert int(row["seeds"]) == (2 if row["arm"] in finished else 1)
    assert events(out) == [] and f"results: {copied}" in out.splitlines()
    page = script.call("--status", copied)
    assert "none, and nothing is left" in page and "pending" not in page

    before = written(copied / "trials")
    out = script.call("--resume", copied, "--extend", "--samples", SAMPLES + 1)
    study = optuna_study(copied)
    assert len(study.trials) == len(REFERENCES) + SAMPLES + 1
    added = study.trials[-1]
    arm = added.user_attrs["arm"]
    assert added.state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert script.records(copied).keys() - new.keys() == {f"{arm}-0", f"{arm}-1"}
    assert added.user_attrs["seeds"] == [0, 1]
    if added.state == TrialState.COMPLETE:
        assert added.values == means(copied, added)
    assert before.items() <= written(copied / "trials").items()


def test_a_study_does_not_grow_unless_it_is_told_to(
    script: Any, explored: Explored, copied: Path
) -> None:
    before = written(copied)
    asked = ("--resume", copied)
    for flag in ("--seeds", "--samples"):
        out = script.call(*asked, flag, 9, status=2)
        assert out == f"error: {flag}: got 9, allowed: with --resume only to --extend\n"
    whole = [*EXPLORE, "--results", copied]
    whole[whole.index("--samples") + 1] = SAMPLES + 1
    out = script.call(*whole, status=2)
    assert out == (
        f"error: samples: got {SAMPLES + 1}, allowed: {SAMPLES}, as in {copied}; "
        f"to add some: --resume {copied} --extend\n"
    )
    assert written(copied) == before


@pytest.mark.parametrize(
    ("flag", "value", "directions"),
    [("--objectives", "val_acc", 1), ("--sampler", "nsga2", 2)],
)
def test_an_edited_study_yaml_is_another_study(
    script: Any,
    ray_cluster: Any,
    explored: Explored,
    tmp_path: Path,
    flag: str,
    value: str,
    directions: int,
) -> None:
    config = read_yaml((explored.root / "study.yaml").read_text())
    # Of two arms the first is quasi-random; the second is the sampler's own.
    config["exploration"] |= {"samples": 2, "start": 1}
    config["exploration"]["stopping"]["rungs"] = [2]
    edited = tmp_path / "edited.yaml"
    edited.write_text(write_yaml(config))
    root = tmp_path / "results"
    script.call("--config", edited, flag, value, "--results", root)

    study = optuna_study(root)
    assert len(study.directions) == directions
    assert len(study.trials) == len(REFERENCES) + 2
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.system_attrs.get("fixed_params") is None for trial in study.trials] == [
        False,
        False,
        False,
        False,
        True,
    ]
    assert table(root, "front.csv")
    decisions = read_rows(root / "rungs.jsonl")
    assert {decision["rung"] for decision in decisions} == {2}
    assert {len(decision["values"]) for decision in decisions} == {directions}
    # The trials of the references are the same ones: the settings that make them were not edited.
    theirs = script.traces(explored.root)
    assert {f"{arm}-0": theirs[f"{arm}-0"] for arm in REFERENCES} == {
        name: trace
        for name, trace in script.traces(root).items()
        if name in theirs and name[:-2] in REFERENCES
    }


@pytest.fixture
def read_only(explored: Explored, tmp_path: Path) -> Iterator[Path]:
    """A file system with the finished study, on which nothing can be written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = [str(mount), "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(made, capture_output=True).returncode:
        pytest.skip("mounting a file system needs rights that this user lacks")
    shutil.copytree(explored.root, folder / "results")
    subprocess.run([mount, "-o", "remount,ro", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_results_that_cannot_be_written_are_refused_before_anything_runs(
    script: Any, read_only: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    root, new, under = read_only / "results", read_only / "new", tmp_path / "file" / "new"
    why = {root: "Read-only file system", new: "Read-only file system", under: "Not a directory"}
    for command in (
        ("--resume", root),
        ("--resume", root, "--extend", "--samples", SAMPLES + 1),
        (*EXPLORE, "--results", new),
        (*EXPLORE, "--results", under),
    ):
        place = next(path for path in why if path in command)
        out = script.call(*command, status=2)
        assert out == f"error: --results: cannot write to or lock {place} ({why[place]})\n"
    # To look is allowed.
    assert "nothing is left" in script.call("--status", root)
