"""Atomic file writes and content hashes."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from adacomcat.checks import require

CACHE_VARIABLE = "ADACOMCAT_CACHE"


class WriteError(OSError):
    """A file that could not be written; it is named."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which takes the place of `path` when the block ends.

    It is hidden and beside `path` (`.NAME.*.tmp`). A reader, or a kill at any moment, sees the old
    or the new one whole; a kill may leave the temporary one, an error leaves nothing.

    Args:
        path: the file, or a folder that is missing or empty; missing parent folders are made.

    Raises:
        WriteError: it cannot be written.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        (_sync_folder if temporary.is_dir() else _sync_file)(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # The first error says more.
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            if error.filename not in (None, str(temporary), str(path.parent)):
                raise
            raise WriteError(error.errno, error.strerror, str(path)) from error
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


def check_writable(path: Path, field: str) -> None:
    """Refuse a place that cannot be written: before the work whose result goes there.

    Args:
        path: a folder, or what is to be made; then the nearest folder above it is tried.
        field: the setting that names it, for the message.

    Raises:
        ValueError: with the cause.
    """
    place = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        require(False, field, str(path), f"a place that can be written ({error.strerror})")


def default_cache() -> Path:
    """The folder of dense models: ADACOMCAT_CACHE, or `.cache/adacomcat` in the home folder.

    Raises:
        ValueError: the variable is not set, and the user has no home folder.
    """
    folder = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(folder).absolute() if folder else Path.home() / ".cache" / "adacomcat"
    except RuntimeError:
        raise ValueError(
            f"{CACHE_VARIABLE}: got None, allowed: a folder, as this user has no home folder"
        ) from None


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
