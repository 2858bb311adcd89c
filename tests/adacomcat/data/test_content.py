"""Content hashes: what changes them, and when a kept one may be used."""

import hashlib
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adacomcat.config import DataConfig
from adacomcat.data import build_splits, content
from adacomcat.data.datasets import load_source


def write_bitmaps(root: Path, levels: dict[str, int], count: int = 12) -> None:
    """BMP files, all of one size in bytes: a class is a gray level."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, level in levels.items():
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = rng.integers(-8, 9, (12, 12, 3))
                pixels = (np.full((12, 12, 3), level) + noise).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.bmp")


def folder(root: Path, **changes) -> DataConfig:
    return DataConfig(name="imagefolder", root=str(root), image_size=8, **changes)


def digests(root: Path) -> list[bytes]:
    images = load_source(folder(root)).train.images
    return [row.tobytes() for row in images.digests()]


def expected(root: Path) -> list[bytes]:
    files = sorted((root / "train").rglob("*.bmp"), key=lambda p: (p.parent.name, p.name))
    return [hashlib.sha256(path.read_bytes()).digest() for path in files]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch) -> Path:
    """Has the hashes of small folders kept too, as if files had been written long ago."""
    monkeypatch.setenv("ADACOMCAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "CACHED_FROM_BYTES", 0)
    monkeypatch.setattr(content, "RACY_NS", -(10**12))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many files were hashed, call by call."""
    counts: list[int] = []
    hashing = content.FileContents._hash

    def counted(self, missing: np.ndarray) -> None:
        counts.append(len(missing))
        hashing(self, missing)

    monkeypatch.setattr(content.FileContents, "_hash", counted)
    return counts


def test_pictures_of_the_same_size_in_bytes_have_other_hashes(tmp_path: Path) -> None:
    """The case behind it: black and white exchanged, names and sizes as before."""
    write_bitmaps(tmp_path, {"a": 60, "b": 200})
    sizes = {path: path.stat().st_size for path in tmp_path.rglob("*.bmp")}
    before = build_splits(folder(tmp_path)).hashes
    write_bitmaps(tmp_path, {"a": 200, "b": 60})
    assert {path: path.stat().st_size for path in tmp_path.rglob("*.bmp")} == sizes
    assert set(build_splits(folder(tmp_path)).hashes.values()).isdisjoint(before.values())


def test_names_of_files_do_not_count(tmp_path: Path) -> None:
    write_bitmaps(tmp_path / "one", {"a": 60, "b": 200})
    for path in (tmp_path / "one").rglob("*.bmp"):
        copy = tmp_path / "two" / path.relative_to(tmp_path / "one")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy.with_name(f"x{path.name}"))
    one, two = (build_splits(folder(tmp_path / name)).hashes for name in ("one", "two"))
    assert one == two


def test_hashes_are_kept_for_files_that_have_not_changed(
    tmp_path: Path, cached: Path, read: list[int]
) -> None:
    root = tmp_path / "data"
    write_bitmaps(root, {"a": 60, "b": 200})
    first = digests(root)
    assert first == expected(root) and read == [24]
    assert digests(root) == first and read == [24, 0]
    assert [path.suffix for path in sorted(cached.iterdir())] == [".lock", ".npy"]


@pytest.mark.parametrize("how", ["write", "replace", "write, old mtime", "replace, old mtime"])
def test_a_changed_file_is_hashed_again(
    tmp_path: Path, cached: Path, read: list[int], how: str
) -> None:
    """Size and mtime may be as before: then the ctime and the inode tell."""
    root = tmp_path / "data"
    write_bitmaps(root, {"a": 60, "b": 200})
    before = digests(root)
    path = root / "train" / "b" / "3.bmp"
    stat = path.stat()
    changed = path.read_bytes()[:-1] + b"x"
    if how.startswith("replace"):
        (tmp_path / "new").write_bytes(changed)
        os.replace(tmp_path / "new", path)
    else:
        path.write_bytes(changed)
    if how.endswith("old mtime"):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert path.stat().st_size == stat.st_size
    after = digests(root)
    assert after == expected(root) != before
    assert read == [24, 1]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_hashes_of_files_that_just_changed_are_not_kept(
    tmp_path: Path, cached: Path, read: list[int], monkeypatch
) -> None:
    monkeypatch.setattr(content, "RACY_NS", 2 * 10**9)
    root = tmp_path / "data"
    write_bitmaps(root, {"a": 60, "b": 200})
    digests(root), digests(root)
    assert read == [24, 24]


@pytest.mark.parametrize("damage", [b"", b"no array", b"\x93NUMPY" + bytes(100)])
def test_a_damaged_file_of_hashes_is_made_anew(
    tmp_path: Path, cached: Path, read: list[int], damage: bytes
) -> None:
    root = tmp_path / "data"
    write_bitmaps(root, {"a": 60, "b": 200})
    first = digests(root)
    (kept,) = cached.glob("*.npy")
    kept.write_bytes(damage)
    assert digests(root) == first and digests(root) == first
    assert read == [24, 24, 0]


def test_without_a_cache_folder_everything_is_hashed(
    tmp_path: Path, cached: Path, read: list[int], caplog
) -> None:
    root = tmp_path / "data"
    write_bitmaps(root, {"a": 60, "b": 200})
    cached.write_text("no folder")
    with caplog.at_level(logging.INFO, logger="adacomcat"):
        assert digests(root) == digests(root) == expected(root)
    assert read == [24, 24]
    assert "hashes of images are not kept: " in caplog.records[0].getMessage()


def test_only_the_images_that_are_used_are_hashed(
    tmp_path: Path, cached: Path, read: list[int]
) -> None:
    root = tmp_path / "data"
    write_bitmaps(root, {"a": 60, "b": 200})
    build_splits(folder(root, max_images=10))
    assert sum(read) == 20


@pytest.mark.parametrize("how", ["gone", "folder"])
def test_a_file_that_cannot_be_hashed_is_named(tmp_path: Path, how: str) -> None:
    write_bitmaps(tmp_path, {"a": 60, "b": 200})
    part = load_source(folder(tmp_path)).train
    path = tmp_path / "train" / "b" / "3.bmp"
    path.unlink()
    if how == "folder":
        path.mkdir()
    message = r"^data.root: cannot read the image 'train/b/3.bmp': .*(No such file|Is a directory)"
    with pytest.raises(ValueError, match=message):
        part.images.digests()
