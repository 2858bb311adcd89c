from pathlib import Path

import pytest

from study.execution import memory
from study.execution.memory import used_share

GIB = 2**30


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """What the kernel tells of a machine of 16 GiB of which 4 are in use."""
    (tmp_path / "memory").mkdir()
    lines = f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {12 * 2**20} kB\n"
    (tmp_path / "meminfo").write_text(lines)
    return tmp_path


def tell(kernel: Path, files: dict[str, object]) -> float:
    for name, content in files.items():
        (kernel / name).write_text(str(content))
    return used_share(kernel, kernel)


def test_the_share_of_the_machine(kernel: Path) -> None:
    assert tell(kernel, {}) == 0.25


def test_a_container_may_have_less(kernel: Path) -> None:
    stat = f"anon 5\ninactive_file {GIB}\n"
    told = {"memory.current": 3 * GIB, "memory.stat": stat, "memory.max": 4 * GIB}
    assert tell(kernel, told) == 0.5
    assert tell(kernel, told | {"memory.max": "max\n"}) == 0.25


def test_a_container_of_the_first_version(kernel: Path) -> None:
    stat = f"inactive_file 1\ntotal_inactive_file {GIB}\n"
    limit = "memory/memory.limit_in_bytes"
    told = {"memory/memory.usage_in_bytes": 4 * GIB, "memory/memory.stat": stat, limit: 4 * GIB}
    assert tell(kernel, told) == 0.75
    # Without a limit it is a number beyond all memory.
    assert tell(kernel, told | {limit: 2**63 - 4096}) == 0.25


def test_where_nobody_knows_nothing_is_in_use(tmp_path: Path) -> None:
    assert used_share(tmp_path, tmp_path) == 0.0


def test_the_threshold_is_that_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "used_share", lambda: 0.9)
    monkeypatch.delenv("RAY_memory_usage_threshold", raising=False)
    assert not memory.is_short()
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.9")
    assert memory.is_short()


def test_this_machine_is_measured() -> None:
    assert 0.0 < used_share() < 1.0
