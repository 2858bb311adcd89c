"""Latency tables: files written by `adacomcat latency`, read by a latency budget.

It is JSON. `latency` holds the table as `budget.latency` has it; the rest says where it comes from.
A configuration holds the table itself and not the file's name, so that it determines its trial.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adacomcat.checks import require
from adacomcat.files import atomic_write_json

FORMAT, VERSION = "adacomcat-latency", 1


def write_timetable(path: Path, table: Mapping[str, Any], **origin: Any) -> None:
    """Write a table, atomically, with its provenance."""
    atomic_write_json(path, {"format": FORMAT, "version": VERSION, "latency": table, **origin})


def read_timetable(path: Path) -> dict[str, Any]:
    """The table of a file.

    Raises:
        ValueError: a file that is missing, damaged, foreign or of a newer version.
    """
    made = "a file of `adacomcat latency`"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: got {error.strerror}, allowed: {made}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: got no JSON, allowed: {made}") from None
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    require(
        ours,
        f"{path}: format",
        content.get("format") if isinstance(content, dict) else None,
        f"{FORMAT} ({made})",
    )
    version = content.get("version")
    require(version == VERSION, f"{path}: version", version, str(VERSION))
    table = content.get("latency")
    require(isinstance(table, dict), f"{path}: latency", table, "a table of times")
    assert isinstance(table, dict)
    return table
