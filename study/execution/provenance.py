"""Where a result comes from: the code, its commit, the versions and the machine."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adacomcat.versions import hardware, versions

PACKAGES = (
    "adacomcat",
    "torch",
    "torchvision",
    "timm",
    "ray",
    "optuna",
    "moocore",
    "numpy",
    "scikit-learn",
)
"""What a trace depends on."""


def repository() -> Path:
    """The folder that holds the packages `adacomcat`, `study`, `experiments` and `analysis`."""
    return Path(__file__).resolve().parents[2]


def python_path() -> str:
    """A `PYTHONPATH` on which the packages of `repository` come first, then the user's folders.

    Its empty entries, which stand for the current directory, are left out.
    """
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([str(repository()), *given]))


def git_state(folder: Path) -> dict[str, Any]:
    """`git_commit` and `git_dirty` of a working tree; both None where there is no commit or no git.

    Untracked files count as dirty: they can be what ran.
    """
    # Installed under somebody else's repository, that one's commit would say nothing of this code.
    ours = _git(folder, "ls-files", "--error-unmatch", "study/execution/provenance.py") is not None
    commit = _git(folder, "rev-parse", "HEAD") if ours else None
    changes = _git(folder, "status", "--porcelain") if commit else None
    return {
        "git_commit": commit.strip() if commit else None,
        "git_dirty": None if changes is None else bool(changes.strip()),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def collect(git: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All of it, of this process; `git` where another process has asked already."""
    state = git_state(repository()) if git is None else git
    return {**state, "versions": versions(PACKAGES), "hardware": hardware()}
