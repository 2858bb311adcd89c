"""Traces of a run: rows of epochs and searches, as JSON-lines files.

Rows are appended, each by one write of a whole line. Where a run is resumed the files are begun
anew with the rows that its checkpoint holds. Without torch, as `adacomcat.io.run`.
"""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adacomcat.checks import require
from adacomcat.files import WriteError, atomic_write_bytes

EPOCHS, SEARCHES = "epochs.jsonl", "searches.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where it does not exist.

    A last line without its end is the trace of a kill in the middle of a write: it is left out.

    Raises:
        ValueError: a whole line that is no JSON object; the file and the line are named.
    """
    rows = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        require(isinstance(rows[-1], dict), f"{path}, line {number}", rows[-1], "a JSON object")
    return rows


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]


class Rows:
    """A JSON-lines file that one process appends to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            # Cut off what a kill left of a line, or the next row would be glued to it.
            os.truncate(path, sum(len(line) + 1 for line in _whole_lines(path)))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row, the whole of it or nothing.

        Raises:
            ValueError: a nan or an infinity, which JSON has no word for.
            WriteError: a full disk, or one that cannot be written any more; the file is named.
        """
        line = _line(row)
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise WriteError(error.errno, error.strerror, str(self.path)) from None
        if written != len(line):
            # Space ran out within the line, and may be there again for the next one.
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


class TraceWriter:
    """The reporter of one run: appends its epochs and searches to files in its directory.

    Each run of a trial, also a resumed one, begins both files anew with the rows that its
    checkpoint holds. So they have each epoch and each search once and lack none, whatever an
    earlier attempt left of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Rows] = {}

    def begin(
        self, epochs: Sequence[Mapping[str, Any]], searches: Sequence[Mapping[str, Any]]
    ) -> None:
        """Replace the file by the rows that the run continues from."""
        self.close()
        for name, rows in ((EPOCHS, epochs), (SEARCHES, searches)):
            path = self._folder / name
            atomic_write_bytes(path, b"".join(map(_line, rows)))
            self._open[name] = Rows(path)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Append the row of an epoch, and flush both files to the disk."""
        self._rows(EPOCHS).append(row)
        for rows in self._open.values():
            rows.sync()

    def search(self, row: Mapping[str, Any]) -> None:
        """Append the row of a search."""
        self._rows(SEARCHES).append(row)

    def _rows(self, name: str) -> Rows:
        if not self._open:
            self.begin((), ())
        return self._open[name]

    def close(self) -> None:
        for rows in self._open.values():
            rows.close()
        self._open.clear()
