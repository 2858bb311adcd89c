"""Checkpoints of a run, to resume it: nested state with tensors.

A checkpoint is a folder with two files:

    checkpoint.sha256    hash and name of the other file, as `sha256sum --check` reads it
    state-<hash>.pt      `torch.save` of the state, under the hash of its content

The state is written first, under a name that no other content has, and `checkpoint.sha256` is then
replaced atomically: a kill at any moment leaves the old checkpoint or the new one. Files are read
with `torch.load(weights_only=True)`, so no file can run code. The hash finds damage, not forgery.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from adacomcat.checks import require
from adacomcat.files import atomic_write_bytes

CHECKPOINT_FILE = "checkpoint.sha256"
FORMAT = "adacomcat-checkpoint"
VERSION = 2
STATE_FILES = "state-*.pt"
LINE = re.compile(r"([0-9a-f]{64})  (state-[0-9a-f]{16}\.pt)\n")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why

    def __reduce__(self) -> tuple[type["CheckpointError"], tuple[Path, str]]:
        # An error of a worker reaches the driver by pickle, which would pass the message alone.
        return CheckpointError, (self.path, self.why)


def save_state(directory: Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint in place of the one in `directory`, if any.

    Args:
        directory: the checkpoint's folder, made if missing; one process writes to it at a time.
        state: what `torch.load(weights_only=True)` reads back: nested dicts, lists, tuples, str,
            int, float, bool, None and tensors on any device.

    Returns:
        The path of `checkpoint.sha256`.

    Raises:
        ValueError: a value of another type; the message names its class.
    """
    buffer = io.BytesIO()
    try:
        torch.save({"format": FORMAT, "version": VERSION, "state": state}, buffer)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"state: {error}; allowed: plain data and tensors") from error
    buffer.seek(0)
    foreign = get_unsafe_globals_in_checkpoint(buffer)
    require(not foreign, "state", ", ".join(sorted(foreign)), "plain data and tensors")
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    name = f"state-{digest[:16]}.pt"
    path = directory / CHECKPOINT_FILE
    atomic_write_bytes(directory / name, data)
    atomic_write_bytes(path, f"{digest}  {name}\n".encode())
    _delete_old(directory, name)
    return path


def load_state(directory: Path) -> dict[str, Any]:
    """Read the state that `save_state` wrote; tensors are on the CPU.

    Raises:
        CheckpointError: a file is missing, truncated, altered, of a newer version or not ours.
    """
    again = f"; delete the folder {directory} to train again what it holds"
    path = directory / CHECKPOINT_FILE
    line = LINE.fullmatch(_read(path, again).decode("ascii", "replace"))
    if line is None:
        raise CheckpointError(path, f"truncated, altered, or no checkpoint of adacomcat{again}")
    digest, name = line.groups()
    path = directory / name
    data = _read(path, again)
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(path, f"truncated or altered: its SHA-256 differs{again}")
    try:
        document = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # A file that is not of `torch.save` gives EOFError, KeyError, ... depending on its first bytes.
    except Exception as error:
        why = f"holds more than plain data and tensors, or is no file of torch.save{again}"
        raise CheckpointError(path, why) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(path, f"no checkpoint of adacomcat{again}")
    if document["version"] != VERSION:
        why = f"format version {document['version']}; this adacomcat reads {VERSION}{again}"
        raise CheckpointError(path, why)
    state: dict[str, Any] = document["state"]
    return state


def check_same(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless a part of a checkpoint equals that of the trial that resumes from it.

    Raises:
        ValueError: names the entries that differ.
    """
    different = sorted(key for key in {*saved, *now} if saved.get(key) != now.get(key))
    require(
        not different,
        f"checkpoint.{name}",
        {key: saved.get(key) for key in different},
        f"what the trial has: { ({key: now.get(key) for key in different}) }",
    )


def _read(path: Path, again: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(path, f"missing{again}") from error


def _delete_old(directory: Path, current: str) -> None:
    """Delete earlier states, and leftovers of killed writers."""
    left_over = [p for p in directory.glob(".*.tmp") if p.name.startswith((".state-", ".check"))]
    for path in [p for p in directory.glob(STATE_FILES) if p.name != current] + left_over:
        path.unlink()
