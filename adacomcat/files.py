"""Files that are whole or absent: atomic writes and content hashes."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which takes the place of `path` when the block ends.

    It is hidden and beside `path` (`.NAME.*.tmp`). A reader, or a kill at any moment, sees the old
    or the new one whole; a kill may leave the temporary one, an error leaves nothing.

    Args:
        path: the file, or a folder that is missing or empty; missing parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        (_sync_folder if temporary.is_dir() else _sync_file)(temporary)
        os.replace(temporary, path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file through `replacing`: whole and on the disk, or not at all.

    Args:
        path: the file; missing parent folders are made.
        data: its whole content.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically as `atomic_write_bytes` does.

    Raises:
        ValueError: a nan or an infinity, which JSON has no word for.
        TypeError: what JSON cannot hold.
    """
    text = json.dumps(obj, indent=2, allow_nan=False)
    atomic_write_bytes(path, f"{text}\n".encode())


def default_cache() -> Path:
    """The folder of dense models: ADACOMCAT_CACHE, or `.cache/adacomcat` in the home folder."""
    folder = os.environ.get("ADACOMCAT_CACHE")
    return Path(folder).absolute() if folder else Path.home() / ".cache" / "adacomcat"


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    # Windows flushes only what is open for writing.
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, without which a renamed file can be lost with the power."""
    if os.name != "posix":
        return  # Windows cannot open a folder, and journals its renames.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
