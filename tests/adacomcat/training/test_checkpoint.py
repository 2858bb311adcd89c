import hashlib
import io
import math
import os
import pickle
import random
import shutil
import struct
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch

from adacomcat.training.checkpoint import (
    CHECKPOINT_FILE,
    FORMAT,
    STATE_FILES,
    CheckpointError,
    load_state,
    save_state,
)


def same(a, b):
    """Whether two states have equal types, orders and bits."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and bits_of(a) == bits_of(b)
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, dict):
        keys = [(type(k), k) for k in a] == [(type(k), k) for k in b]
        return keys and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def bits_of(tensor):
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist())


def small_state(value):
    return {"epoch": value, "weights": {"w": torch.full((3,), float(value))}, "lr": value / 3}


def test_nested_state_round_trips_bit_for_bit(tmp_path):
    nan = struct.unpack("d", struct.pack("Q", 0xFFF8_0000_0000_1234))[0]
    state = {
        "floats": [nan, math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2, 1.0],
        "rows": [{"epoch": 0, "loss": None, "searched": True, "plan": {"blocks.0.qk": 3}}],
        "tuple": (1, ("two", 3.0), []),
        0: {"0": "text", -1: 2**80},
        "tensors": [torch.rand(2, 3), torch.ones((), dtype=torch.bfloat16), torch.ones(0, 3)],
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    }
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), state)


def test_tensor_that_occurs_twice_is_stored_once(tmp_path):
    tied = torch.rand(1000)
    save_state(tmp_path, {"embedding": tied, "head": tied})
    loaded = load_state(tmp_path)
    assert loaded["embedding"].data_ptr() == loaded["head"].data_ptr()
    (file,) = tmp_path.glob(STATE_FILES)
    assert file.stat().st_size < 2 * tied.nbytes


def test_training_continues_from_file_bit_for_bit(tmp_path):
    """What a resume holds: a model, its optimizer, its scheduler and the random generators."""

    def build():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(5, 7), torch.nn.Dropout(), torch.nn.Linear(7, 2)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def steps(model, optimizer, scheduler, count):
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
            scheduler.step()
        return random.random()

    straight = build()
    random.seed(3)
    steps(*straight, 4)
    last = steps(*straight, 4)

    first = build()
    random.seed(3)
    steps(*first, 4)
    parts = {name: part.state_dict() for name, part in zip("mos", first, strict=True)}
    save_state(tmp_path, {**parts, "torch": torch.get_rng_state(), "python": random.getstate()})

    resumed = build()
    random.seed(99)
    loaded = load_state(tmp_path)
    for name, part in zip("mos", resumed, strict=True):
        part.load_state_dict(loaded[name])
    torch.set_rng_state(loaded["torch"])
    random.setstate(loaded["python"])
    assert steps(*resumed, 4) == last
    for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"a": [1, object]}, "builtins.object"),
        ({"a": {"b": np.float64(1.5)}}, "numpy.*scalar"),
        ({"a": lambda: 3}, "lambda"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, value, name):
    with pytest.raises(ValueError, match=f"^state: .*{name}.*allowed: plain data and tensors$"):
        save_state(tmp_path, value)
    assert not list(tmp_path.iterdir())


def test_order_of_an_ordered_dict_is_kept(tmp_path):
    save_state(tmp_path, {"a": OrderedDict(y=1, x=2)})
    assert list(load_state(tmp_path)["a"].items()) == [("y", 1), ("x", 2)]


def test_kill_at_any_moment_leaves_old_or_new(tmp_path, monkeypatch):
    """Copy the folder around every call that changes the disk; each copy is what a kill leaves."""
    folder, copies = tmp_path / "checkpoint", tmp_path / "copies"
    old, new = small_state(1), small_state(2)
    save_state(folder, old)

    def watched(call):
        def inner(*args, **kwargs):
            shutil.copytree(folder, copies / f"{len(list(copies.glob('*'))):02d}")
            result = call(*args, **kwargs)
            shutil.copytree(folder, copies / f"{len(list(copies.glob('*'))):02d}")
            return result

        return inner

    copies.mkdir()
    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "unlink"):
            patch.setattr(os, name, watched(getattr(os, name)))
        save_state(folder, new)

    found = [load_state(copy) for copy in sorted(copies.iterdir())]
    epochs = [state["epoch"] for state in found]
    assert all(same(state, old) or same(state, new) for state in found)
    assert epochs == sorted(epochs) and set(epochs) == {1, 2}
    # fsync, replace, fsync of the folder for two files, and one unlink.
    assert len(epochs) == 2 * 7

    # Whatever was left behind, the next save works and tidies up.
    for copy in copies.iterdir():
        save_state(copy, small_state(3))
        assert same(load_state(copy), small_state(3))
        assert len(list(copy.iterdir())) == 2


def test_only_the_newest_state_is_kept(tmp_path):
    for value in range(4):
        path = save_state(tmp_path, small_state(value))
    assert path == tmp_path / CHECKPOINT_FILE
    assert len(list(tmp_path.iterdir())) == 2


def test_the_hash_is_what_sha256sum_checks(tmp_path):
    save_state(tmp_path, small_state(1))
    check = ["sha256sum", "--check", "--strict", CHECKPOINT_FILE]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize("which", [CHECKPOINT_FILE, STATE_FILES])
class TestDamage:
    def file(self, tmp_path, which):
        save_state(tmp_path, {"a": [0.25, math.nan], "t": torch.rand(4), "s": "text"})
        (path,) = tmp_path.glob(which)
        return path

    def refused(self, tmp_path, why):
        with pytest.raises(CheckpointError, match=why) as error:
            load_state(tmp_path)
        assert str(error.value).startswith(str(tmp_path))
        assert str(error.value).endswith(
            f"; delete the folder {tmp_path} to train again what it holds"
        )
        copied = pickle.loads(pickle.dumps(error.value))
        assert str(copied) == str(error.value)

    def test_missing(self, tmp_path, which):
        path = self.file(tmp_path, which)
        path.unlink()
        self.refused(tmp_path, f"{path}: missing")

    def test_truncated_anywhere(self, tmp_path, which):
        path = self.file(tmp_path, which)
        data = path.read_bytes()
        for length in range(0, len(data), 1 if which == CHECKPOINT_FILE else 7):
            path.write_bytes(data[:length])
            self.refused(tmp_path, f"{path}: truncated")

    def test_any_byte_altered(self, tmp_path, which):
        path = self.file(tmp_path, which)
        data = path.read_bytes()
        for place in range(0, len(data), 1 if which == CHECKPOINT_FILE else 7):
            for bit in (0, 5):
                altered = bytearray(data)
                altered[place] ^= 1 << bit
                path.write_bytes(bytes(altered))
                self.refused(tmp_path, "altered|missing")

    def test_longer(self, tmp_path, which):
        path = self.file(tmp_path, which)
        path.write_bytes(path.read_bytes() + b" ")
        self.refused(tmp_path, "altered")

    def test_pickle_with_code_is_not_run(self, tmp_path, which):
        path, proof = self.file(tmp_path, which), tmp_path / "proof"
        path.write_bytes(pickle.dumps(Payload(proof)))
        self.refused(tmp_path, "altered")
        torch.save(Payload(proof), path)
        self.refused(tmp_path, "altered")
        assert not proof.exists()
        # The payload is a real one.
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
        assert proof.exists()


def forge(folder, data):
    """A checkpoint of any content, under its right hash."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"state-{digest[:16]}.pt"
    (folder / name).write_bytes(data)
    (folder / CHECKPOINT_FILE).write_text(f"{digest}  {name}\n")


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_pickle_under_a_right_hash_is_not_run(tmp_path):
    proof = tmp_path / "proof"
    for data in (
        pickle.dumps(Payload(proof)),
        saved(Payload(proof)),
        saved({"format": FORMAT, "version": 2, "state": {"rows": [Payload(proof)]}}),
    ):
        forge(tmp_path, data)
        with pytest.raises(CheckpointError, match="holds more than plain data and tensors"):
            load_state(tmp_path)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["../state-0123456789abcdef.pt", "/etc/passwd", "state-x.pt"])
def test_no_other_file_is_read(tmp_path, name):
    (tmp_path / CHECKPOINT_FILE).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(CheckpointError, match="no checkpoint of adacomcat"):
        load_state(tmp_path)


class Payload:
    """A pickle that creates a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved({"format": FORMAT, "version": 3, "state": {}}), "version 3; this adacomcat reads 2"),
        (saved({"format": "other"}), "no checkpoint of adacomcat"),
        (saved([1, 2]), "no checkpoint of adacomcat"),
        (b"", "no file of torch.save"),
        (b"[" * 1000, "no file of torch.save"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    forge(tmp_path, content)
    with pytest.raises(CheckpointError, match=message):
        load_state(tmp_path)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.*missing"):
        load_state(tmp_path / "nowhere")
