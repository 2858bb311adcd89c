"""Memory usage of this machine or its container, as Ray's memory monitor counts it."""

import os
from pathlib import Path

THRESHOLD = 0.95
"""Usage above which Ray kills workers by default; RAY_memory_usage_threshold overrides it."""

_CGROUPS = (
    # Limit, use, and in the statistics the page cache that can be dropped: version 2, version 1.
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def is_short() -> bool:
    """Whether usage is so high that Ray would kill the next worker; False if it is unknown."""
    return used_share() >= float(os.environ.get("RAY_memory_usage_threshold") or THRESHOLD)


def used_share(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Used share of all memory; 0.0 if it is unknown.

    Args:
        proc: mount point with the statistics of the machine.
        cgroup: mount point with those of the container.
    """
    return max(_of_machine(proc / "meminfo"), *(_of_group(cgroup, *names) for names in _CGROUPS))


def _of_machine(meminfo: Path) -> float:
    try:
        facts = _facts(meminfo.read_text().replace(":", ""))
        return 1.0 - facts["MemAvailable"] / facts["MemTotal"]
    except (OSError, ValueError, LookupError, ZeroDivisionError):
        return 0.0


def _of_group(folder: Path, limit: str, use: str, cache: str) -> float:
    try:
        facts = _facts((folder / use).with_name("memory.stat").read_text())
        # Without a limit the text is `max`, or a number beyond all memory.
        most = int((folder / limit).read_text())
        return (int((folder / use).read_text()) - facts[cache]) / most
    except (OSError, ValueError, LookupError, ZeroDivisionError):
        return 0.0


def _facts(text: str) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines())}
