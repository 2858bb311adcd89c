import errno
import hashlib
import json
import math
import os
import re
import stat
from pathlib import Path

import pytest

from adacomcat.files import (
    atomic_write_bytes,
    atomic_write_json,
    check_writable,
    default_cache,
    sha256_file,
)


def test_bytes_are_written_into_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    atomic_write_bytes(path, b"first")
    atomic_write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_leaves_old_file_alone(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    atomic_write_bytes(path, b"old")

    def fail(*args, **kwargs):
        raise OSError("no space")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="no space"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_data_is_on_disk_before_the_name_changes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("fsync", _kind(fd))), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("replace",)), replace(a, b)))
    atomic_write_bytes(path, b"new")
    assert calls == [("fsync", "file"), ("replace",), ("fsync", "folder")]


def _kind(handle):
    return "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"


def test_file_is_readable_by_whom_the_umask_lets(tmp_path):
    ordinary, ours = tmp_path / "ordinary", tmp_path / "ours"
    ordinary.write_bytes(b"")
    atomic_write_bytes(ours, b"")
    assert ours.stat().st_mode == ordinary.stat().st_mode


def test_json_round_trip(tmp_path):
    path, value = tmp_path / "x.json", {"b": [1, 2.5, None], "a": "\u00e4"}
    atomic_write_json(path, value)
    assert json.loads(path.read_text()) == value


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    atomic_write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(path, {"loss": math.nan})
    assert path.read_text() == "1\n"


def test_sha256_of_known_text(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == known
    path.write_bytes(b"x" * 3_000_000)
    assert sha256_file(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_the_cache_is_where_the_user_says(monkeypatch):
    monkeypatch.setenv("ADACOMCAT_CACHE", "somewhere")
    assert default_cache() == Path(os.getcwd()) / "somewhere"
    monkeypatch.delenv("ADACOMCAT_CACHE")
    assert default_cache() == Path.home() / ".cache" / "adacomcat"


# What cannot be written.


def test_a_full_disk_names_the_file_that_was_meant_and_leaves_nothing(disk_of, tmp_path):
    path = tmp_path / "a"
    with disk_of(10), pytest.raises(OSError, match=re.escape(f"'{path}'")) as caught:
        atomic_write_bytes(path, b"x" * 20)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_made(tmp_path):
    check_writable(tmp_path / "new" / "folder", "--output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--output: got .*file/run'.*\(Not a directory\)"):
        check_writable(tmp_path / "file" / "run", "--output")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ADACOMCAT_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ValueError, match="ADACOMCAT_CACHE: got None, allowed: a folder"):
        default_cache()
