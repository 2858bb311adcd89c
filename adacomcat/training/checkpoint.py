"""The checkpoint on disk: a nested structure with tensors in it, whole or refused.

A checkpoint is a folder with two files:

    checkpoint.json               the structure, the name and hash of the tensors file, a checksum
    tensors-<hash>.safetensors    the tensors, under the hash of their content

The tensors are written first, under a name no other content has, and `checkpoint.json` is then
replaced atomically: a kill at any moment leaves the old checkpoint or the new one. Nothing here
reads pickles, so no file can run code. The checksums find damage, not forgery.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from adacomcat.checks import require
from adacomcat.files import atomic_write_bytes

CHECKPOINT_FILE = "checkpoint.json"
FORMAT = "adacomcat-checkpoint"
VERSION = 1

TAG = "~"
"""Marks a JSON object that stands for what JSON has no word for."""

DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.bool}
    | {torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.complex64}
)
"""What a safetensors file holds bit for bit."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and why."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why

    def __reduce__(self) -> tuple[type["CheckpointError"], tuple[Path, str]]:
        # An error of a worker reaches the driver by pickle, which would pass the message alone.
        return CheckpointError, (self.path, self.why)


def save_state(directory: Path, state: Mapping[str, Any], *, keep: int = 1) -> Path:
    """Write a checkpoint in place of the one in `directory`, if any.

    Args:
        directory: the checkpoint's folder, made if missing; one process writes to it at a time.
        state: nested dicts (str or int keys), lists, tuples, str, int, float, bool, None and dense
            tensors on any device. Floats keep their bits, nan and infinities too. A tensor that
            occurs twice is stored once.
        keep: tensors files to leave, the new one included. With 2 or more, a process that has just
            read the old `checkpoint.json` still finds its tensors.

    Returns:
        The path of `checkpoint.json`.

    Raises:
        ValueError: a value of another type, named by its place in `state`; `keep` below 1.
    """
    require(keep >= 1, "keep", keep, "1 or more")
    writer = _Writer()
    structure = writer.encode(state, "state")
    data = safetensors.torch.save(writer.tensors)
    digest = hashlib.sha256(data).hexdigest()
    name = f"tensors-{digest[:16]}.safetensors"
    document = {
        "format": FORMAT,
        "version": VERSION,
        "tensors": {"file": name, "sha256": digest},
        "state": structure,
    }
    checksum = hashlib.sha256(_canonical(document)).hexdigest()
    path = directory / CHECKPOINT_FILE
    atomic_write_bytes(directory / name, data)
    atomic_write_bytes(path, _canonical({**document, "checksum": checksum}))
    _delete_old(directory, name, keep)
    return path


def load_state(directory: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; tensors come back on the CPU, without gradient.

    Raises:
        CheckpointError: a file is missing, truncated, altered, of a newer version or not ours.
    """
    document = _read_document(directory / CHECKPOINT_FILE)
    tensors_path = directory / document["tensors"]["file"]
    data = _read(tensors_path)
    if hashlib.sha256(data).hexdigest() != document["tensors"]["sha256"]:
        raise CheckpointError(tensors_path, "truncated or altered: its SHA-256 differs")
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(tensors_path, f"no safetensors file: {error}") from error
    state: dict[str, Any] = _decode(document["state"], tensors)
    return state


def check_same(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless a part of a checkpoint is what the trial that goes on from it has.

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


def _read_document(path: Path) -> dict[str, Any]:
    """Read `checkpoint.json`, checked down to its last byte."""
    data = _read(path)
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        why = "truncated, altered, or no checkpoint of adacomcat (not JSON; pickles are not read)"
        raise CheckpointError(path, why) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(path, "no checkpoint of adacomcat")
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        why = f"format version {version}; this adacomcat reads up to {VERSION}"
        raise CheckpointError(path, why)
    body = {key: value for key, value in document.items() if key != "checksum"}
    checksum = hashlib.sha256(_canonical(body)).hexdigest()
    # The second comparison finds what leaves the meaning as it was: a space, a repeated key.
    if document.get("checksum") != checksum or _canonical(document) != data:
        raise CheckpointError(path, "altered: its checksum differs")
    return body


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(path, "missing") from error


def _canonical(document: Mapping[str, Any]) -> bytes:
    # Not sorted: the order of a dict is part of what is stored.
    return json.dumps(document, separators=(",", ":")).encode()


def _delete_old(directory: Path, current: str, keep: int) -> None:
    """Delete all but the newest `keep` tensors files, and what a killed writer left."""
    others = [p for p in directory.glob("tensors-*.safetensors") if p.name != current]
    others.sort(key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True)
    left_over = [p for p in directory.glob(".*.tmp") if p.name.startswith((".tensors-", ".check"))]
    for path in others[keep - 1 :] + left_over:
        path.unlink()


@dataclass
class _Writer:
    """Turns a state into JSON-able data, and collects its tensors."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """id of a tensor -> its name in the file; the state keeps them alive, so no id recurs."""

    def encode(self, value: Any, where: str) -> Any:
        """Encode one value; `where` is its place in the state, for messages."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return _encode_float(float(value))
        if isinstance(value, torch.Tensor):
            return {TAG: "tensor", "name": self._store(value, where)}
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return {TAG: "tuple", "items": items} if isinstance(value, tuple) else items
        require(isinstance(value, Mapping), where, type(value).__name__, "plain data and tensors")
        items = []
        for key, item in value.items():
            plain = isinstance(key, str) or type(key) is int
            require(plain, f"{where}: a key", key, "strings and integers")
            items.append((key, self.encode(item, f"{where}.{key}")))
        if all(isinstance(key, str) and key != TAG for key, _ in items):
            return dict(items)
        return {TAG: "dict", "items": [list(item) for item in items]}

    def _store(self, tensor: torch.Tensor, where: str) -> str:
        name = self.names.get(id(tensor))
        if name is None:
            dense = tensor.layout == torch.strided and tensor.dtype in DTYPES
            got = f"{tensor.layout} tensor of {tensor.dtype}"
            require(dense, where, got, f"dense tensors of {', '.join(sorted(map(str, DTYPES)))}")
            # The number keeps apart the places {"a.b": ...} and {"a": {"b": ...}}.
            name = f"{len(self.tensors)}:{where.encode('ascii', 'backslashreplace').decode()}"
            self.names[id(tensor)] = name
            # A copy, because the file takes no two tensors that share memory, nor lazy views.
            plain = tensor.detach().resolve_conj().resolve_neg()
            self.tensors[name] = plain.cpu().clone(memory_format=torch.contiguous_format)
        return name


def _encode_float(value: float) -> Any:
    # json writes the shortest digits that read back as the same float, so only these need help.
    if math.isfinite(value):
        return value
    return {TAG: "float", "bits": struct.pack(">d", value).hex()}


def _decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(TAG)
    if kind is None:
        return {key: _decode(item, tensors) for key, item in value.items()}
    if kind == "tensor":
        return tensors[value["name"]]
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(value["bits"]))[0]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in value["items"])
    assert kind == "dict", kind
    return {key: _decode(item, tensors) for key, item in value["items"]}
