"""Provenance of a result: code, commit, versions and machine."""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
"""Packages that a trace depends on."""


def repository() -> Path:
    """The folder that holds the packages `adacomcat`, `study`, `experiments` and `analysis`."""
    return Path(__file__).resolve().parents[1]


def git_state(folder: Path) -> dict[str, Any]:
    """`git_commit` and `git_dirty` of a working tree; both None where there is no commit or no git.

    Untracked files count as dirty: they can be what ran.
    """
    # Installed under somebody else's repository, that one's commit would say nothing of this code.
    ours = _git(folder, "ls-files", "--error-unmatch", "adacomcat/versions.py") is not None
    commit = _git(folder, "rev-parse", "HEAD") if ours else None
    changes = _git(folder, "status", "--porcelain") if commit else None
    return {
        "git_commit": commit.strip() if commit else None,
        "git_dirty": None if changes is None else bool(changes.strip()),
    }


def collect(git: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The provenance of this process; `git` if another process has determined it already."""
    state = git_state(repository()) if git is None else git
    return {**state, "versions": versions(PACKAGES), "hardware": hardware()}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version and those of the packages, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """This machine: processor, cores that this process may use, memory, names of its GPUs."""
    import torch  # Not at the top: the command line imports this module, and answers at once.

    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu(), "cores": len(usable), "gpu": gpus, "memory_bytes": _memory_bytes()}


def _cpu() -> str:
    """The model name of the processor; its architecture if the name is unknown."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
