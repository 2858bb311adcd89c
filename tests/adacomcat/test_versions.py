import subprocess
import sys
from pathlib import Path

import pytest

from adacomcat.versions import PACKAGES, collect, git_state, hardware, repository


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "adacomcat").mkdir()
    (tmp_path / "adacomcat" / "versions.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_the_commit_and_whether_the_tree_differs_from_it(tree: Path) -> None:
    commit = git(tree, "rev-parse", "HEAD")
    assert git_state(tree) == {"git_commit": commit, "git_dirty": False}
    (tree / "adacomcat" / "versions.py").write_text("x = 2\n")
    assert git_state(tree) == {"git_commit": commit, "git_dirty": True}
    git(tree, "checkout", "-q", ".")
    (tree / "new.py").touch()
    assert git_state(tree) == {"git_commit": commit, "git_dirty": True}


def test_a_stranger_s_repository_and_none_have_no_commit(tree: Path, tmp_path: Path) -> None:
    nothing = {"git_commit": None, "git_dirty": None}
    (tree / "site-packages" / "adacomcat").mkdir(parents=True)
    assert git_state(tree / "site-packages") == nothing
    assert git_state(tmp_path / "absent") == nothing


def test_no_git_is_no_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(tree)["git_commit"] is None


def test_the_facts_of_this_process() -> None:
    import torch

    facts = collect({"git_commit": "abc", "git_dirty": False})
    assert (facts["git_commit"], facts["git_dirty"]) == ("abc", False)
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert facts["versions"]["python"] == sys.version.split()[0]
    assert facts["hardware"] == hardware()
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["memory_bytes"] > 2**20
    assert facts["hardware"]["cpu"]
    assert facts["versions"].keys() == {"python", *PACKAGES}


def test_the_repository_holds_this_package() -> None:
    assert (repository() / "study" / "run.py").is_file()
