"""Content hashes of images, which identify them in splits, caches and checks for leakage.

Files are read and hashed in full when a hash is first needed: for ImageNet (1.28 million files,
147 GB) once, at the rate of the disk or of SHA-256 on all cores. The hashes of large folders are
kept in the cache folder by device, inode, size, mtime and ctime of each file, as Git's index
identifies a file that has not changed. Writing to a file or replacing it sets its ctime, which no
program can choose; a file that changed less than two seconds before it was hashed is hashed again
the next time, since a second change could fall into the same tick of a coarse clock. The known
exception is a file system that stores no ctime (FAT).
"""

import hashlib
import io
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from filelock import FileLock

from adacomcat.files import atomic_write_bytes, default_cache

LOGGER = logging.getLogger("adacomcat")
CACHED_FROM_BYTES = 64 * 2**20
"""Folders with less to hash are hashed anew each time."""
TOLD_FROM_BYTES = 2 * 2**30
RACY_NS = 2 * 10**9
THREADS_PER_CORE, MOST_THREADS = 4, 32
CHUNK = 256
"""Files that a thread hashes at a time."""
DIGEST_BYTES = 32
STAT = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
"""Fields of `os.stat` by which a file that has not changed is known."""


def stat_of(found: os.stat_result) -> list[int]:
    """`STAT` of a file, each modulo 2 ** 64: times before 1970 are negative."""
    return [getattr(found, key) & 0xFFFFFFFFFFFFFFFF for key in STAT]


class Contents(Protocol):
    """Names and content hashes of the images of a source, by index."""

    def name(self, index: int) -> str:
        """Name of an image, for messages."""

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """SHA-256 of the images at `indices`, (n, 32) uint8.

        Raises:
            ValueError: an image cannot be read; the message names it.
        """


@dataclass(frozen=True, eq=False)
class KnownContents:
    """Contents whose hashes are known.

    Attributes:
        names: N names.
        sha256: (N, 32), uint8.
    """

    names: Sequence[str]
    sha256: np.ndarray

    def name(self, index: int) -> str:
        return self.names[index]

    def digests(self, indices: np.ndarray) -> np.ndarray:
        return self.sha256[indices]


class FileContents:
    """Contents of image files, hashed when first needed."""

    def __init__(self, paths: np.ndarray, names: np.ndarray, stats: np.ndarray) -> None:
        """
        Args:
            paths: N, bytes, as `images.pack` makes them.
            names: likewise, for messages.
            stats: (N, 5) uint64, `STAT` of each file.
        """
        self._paths, self._names, self._stats = paths, names, stats
        self._known = np.zeros(len(paths), dtype=bool)
        self._sha256 = np.zeros((len(paths), DIGEST_BYTES), dtype=np.uint8)

    def name(self, index: int) -> str:
        return os.fsdecode(bytes(self._names[index]))

    def digests(self, indices: np.ndarray) -> np.ndarray:
        if not self._known[indices].all():
            self._find(np.unique(indices))
        return self._sha256[indices]

    def _find(self, wanted: np.ndarray) -> None:
        """Fill in the hashes of some images, from the cache as far as it has them."""
        cache = None
        if int(self._sizes(wanted).sum()) >= CACHED_FROM_BYTES:
            cache = _HashFile.of_folder(self._folder())
        with ExitStack() as stack:
            if cache is not None:
                # Workers of one machine hash once: the first one, while the others wait.
                stack.enter_context(cache.lock)
                self._recall(cache.read())
            missing = wanted[~self._known[wanted]]
            started_ns = time.time_ns()
            self._hash(missing)
            if cache is not None and len(missing) > 0:
                keep = self._known & (self._stats[:, 3:].max(axis=1) < started_ns - RACY_NS)
                cache.write(self._stats[keep], self._sha256[keep])

    def _recall(self, kept: dict[bytes, bytes]) -> None:
        """Take over the kept hashes of files that have not changed."""
        if not kept:
            return
        for index, row in enumerate(self._stats):
            digest = kept.get(row.tobytes())
            if digest is not None:
                self._sha256[index] = np.frombuffer(digest, np.uint8)
                self._known[index] = True

    def _hash(self, missing: np.ndarray) -> None:
        """Read and hash the files at some indices."""
        size_bytes = int(self._sizes(missing).sum())
        if size_bytes >= TOLD_FROM_BYTES:
            LOGGER.info(
                "hashing %d images (%.0f GB) of %s; hashes are kept for files that do not change",
                len(missing),
                size_bytes / 1e9,
                self._folder(),
            )
        chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
        threads = min(MOST_THREADS, THREADS_PER_CORE * (os.cpu_count() or 1), max(1, len(chunks)))
        pool = ThreadPoolExecutor(threads)
        try:
            for chunk, digests in zip(chunks, pool.map(self._hash_chunk, chunks), strict=True):
                self._sha256[chunk] = digests
                self._known[chunk] = True
        finally:
            # After an interrupt or an error, not the rest of a million files.
            pool.shutdown(cancel_futures=True)

    def _hash_chunk(self, indices: np.ndarray) -> np.ndarray:
        digests = np.empty((len(indices), DIGEST_BYTES), dtype=np.uint8)
        for row, index in zip(digests, indices, strict=True):
            try:
                with open(os.fsdecode(bytes(self._paths[index])), "rb", buffering=0) as file:
                    row[:] = np.frombuffer(hashlib.sha256(file.read()).digest(), np.uint8)
            except OSError as error:
                name = self.name(int(index))
                raise ValueError(f"data.root: cannot read the image {name!r}: {error}") from error
        return digests

    def _folder(self) -> str:
        """The common folder of all files, by the first and the last of the list."""
        first, last = (os.fsdecode(bytes(self._paths[i])) for i in (0, -1))
        return os.path.commonpath([os.path.dirname(os.path.realpath(p)) for p in (first, last)])

    def _sizes(self, indices: np.ndarray) -> np.ndarray:
        return self._stats[indices, 2]


class _HashFile:
    """Kept hashes of the files of one folder."""

    DTYPE: ClassVar = np.dtype([("stat", "V40"), ("sha256", f"V{DIGEST_BYTES}")])

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self.lock = path, lock

    @classmethod
    def of_folder(cls, folder: str) -> "_HashFile | None":
        """The file for a folder of images; None where the cache folder cannot be used."""
        key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        try:
            path = default_cache() / f"images-{key}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            with lock:
                pass
        except (OSError, ValueError) as error:
            LOGGER.info("hashes of images are not kept: %s", error)
            return None
        return cls(path, lock)

    def read(self) -> dict[bytes, bytes]:
        """Hash by stat, both as bytes; empty where the file is missing or damaged."""
        try:
            table = np.load(self.path)
        except (OSError, ValueError, EOFError):
            return {}
        if table.dtype != self.DTYPE:
            return {}
        return dict(zip(table["stat"].tolist(), table["sha256"].tolist(), strict=True))

    def write(self, stats: np.ndarray, sha256: np.ndarray) -> None:
        table = np.empty(len(stats), dtype=self.DTYPE)
        table["stat"] = np.ascontiguousarray(stats).view("V40")[:, 0]
        table["sha256"] = np.ascontiguousarray(sha256).view(f"V{DIGEST_BYTES}")[:, 0]
        buffer = io.BytesIO()
        np.save(buffer, table)
        try:
            atomic_write_bytes(self.path, buffer.getvalue())
        except OSError as error:
            LOGGER.info("hashes of images are not kept: %s", error)
