import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
import struct
from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adacomcat.training.checkpoint import (
    CHECKPOINT_FILE,
    DTYPES,
    TAG,
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


doubles = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("d", struct.pack("Q", bits))[0])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | doubles
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5)
)
tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(
        0, 256, (*shape, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    ).view(dtype),
    st.sampled_from(sorted(DTYPES - {torch.bool}, key=str)),
    st.lists(st.integers(0, 3), max_size=2),
    st.integers(0, 9),
)
keys = st.text(st.characters(codec=None), max_size=4) | st.integers() | st.just(TAG)
values = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(state=st.dictionaries(keys, values, max_size=4))
def test_any_state_round_trips(tmp_path, state):
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), state)


def test_floats_keep_their_bits(tmp_path):
    nan = struct.unpack("d", struct.pack("Q", 0xFFF8_0000_0000_1234))[0]
    state = {"x": [nan, math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 0.1 + 0.2, 1e16, 1.0]}
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), state)


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str), ids=str)
def test_every_dtype_and_shape(tmp_path, dtype):
    state = {
        "scalar": torch.ones((), dtype=dtype),
        "empty": torch.ones((0, 3), dtype=dtype),
        "matrix": torch.arange(6).reshape(2, 3).to(dtype),
    }
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), state)


def test_views_shared_and_lazy_tensors(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "transposed": base.t(),
        "part": base[1:, ::2],
        "whole": base,
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "images": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
        "parameter": torch.nn.Parameter(torch.tensor([1.5])),
    }
    save_state(tmp_path, state)
    loaded = load_state(tmp_path)
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor.detach()), name
    assert loaded["negative"].item() == -2
    loaded["whole"].zero_()
    assert torch.equal(loaded["part"], base[1:, ::2])


def test_tensor_that_occurs_twice_is_stored_once(tmp_path):
    tied = torch.rand(1000)
    save_state(tmp_path, {"embedding": tied, "head": tied})
    loaded = load_state(tmp_path)
    assert loaded["embedding"] is loaded["head"]
    (file,) = tmp_path.glob("tensors-*.safetensors")
    assert file.stat().st_size < 2 * tied.nbytes


def test_similar_places_are_kept_apart(tmp_path):
    one, two, three = (torch.tensor(float(i)) for i in range(3))
    state = {"a.b": one, "a": {"b": two, 0: three, "0": one, "__metadata__": two}}
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), state)


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
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"state\.a\[1\]: got 'set'"),
        ({"a": {"b": object()}}, r"state\.a\.b: got 'object'"),
        ({"a": {(1, 2): 3}}, r"state\.a: a key: got \(1, 2\)"),
        ({True: 1}, r"state: a key: got True"),
        ({"a": torch.eye(2).to_sparse()}, r"state\.a: .*sparse"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, r"state\.a: .*complex128"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        save_state(tmp_path, value)
    assert not list(tmp_path.iterdir())


def test_subclasses_come_back_plain(tmp_path):
    save_state(tmp_path, {"a": OrderedDict(x=1), "b": torch.Size([2, 3])})
    assert same(load_state(tmp_path), {"a": {"x": 1}, "b": (2, 3)})


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


def test_only_the_newest_tensors_are_kept(tmp_path):
    for value in range(4):
        path = save_state(tmp_path, small_state(value))
    assert path == tmp_path / CHECKPOINT_FILE
    assert len(list(tmp_path.iterdir())) == 2


def test_reader_of_the_old_document_finds_its_tensors_with_keep_2(tmp_path):
    path = save_state(tmp_path, small_state(0), keep=2)
    for value in range(1, 4):
        document = path.read_bytes()
        save_state(tmp_path, small_state(value), keep=2)
        current = path.read_bytes()
        path.write_bytes(document)
        assert same(load_state(tmp_path), small_state(value - 1))
        path.write_bytes(current)
        assert len(list(tmp_path.glob("tensors-*"))) == 2
    with pytest.raises(ValueError, match="keep: got 0"):
        save_state(tmp_path, small_state(0), keep=0)


@pytest.mark.parametrize("which", [CHECKPOINT_FILE, "tensors-*.safetensors"])
class TestDamage:
    def file(self, tmp_path, which):
        save_state(tmp_path, {"a": [0.25, math.nan], "t": torch.rand(4), "s": "text"})
        (path,) = tmp_path.glob(which)
        return path

    def refused(self, tmp_path, path, why):
        with pytest.raises(CheckpointError, match=why) as error:
            load_state(tmp_path)
        assert str(path) in str(error.value)
        copied = pickle.loads(pickle.dumps(error.value))
        assert str(copied) == str(error.value)

    def test_missing(self, tmp_path, which):
        path = self.file(tmp_path, which)
        path.unlink()
        self.refused(tmp_path, path, "missing")

    def test_truncated_anywhere(self, tmp_path, which):
        path = self.file(tmp_path, which)
        data = path.read_bytes()
        for length in range(len(data)):
            path.write_bytes(data[:length])
            self.refused(tmp_path, path, "truncated")

    def test_any_byte_altered(self, tmp_path, which):
        path = self.file(tmp_path, which)
        data = path.read_bytes()
        for place in range(len(data)):
            for bit in (0, 5):
                altered = bytearray(data)
                altered[place] ^= 1 << bit
                path.write_bytes(bytes(altered))
                self.refused(tmp_path, path, "altered|no checkpoint of adacomcat|version")

    def test_longer(self, tmp_path, which):
        path = self.file(tmp_path, which)
        path.write_bytes(path.read_bytes() + b" ")
        self.refused(tmp_path, path, "altered")

    def test_pickle_with_code_is_not_run(self, tmp_path, which):
        path, proof = self.file(tmp_path, which), tmp_path / "proof"
        path.write_bytes(pickle.dumps(Payload(proof)))
        self.refused(tmp_path, path, "altered")
        torch.save(Payload(proof), path)
        self.refused(tmp_path, path, "altered")
        assert not proof.exists()
        # The payload is a real one.
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
        assert proof.exists()


def test_pickle_under_forged_checksums_is_not_run(tmp_path):
    path, proof = save_state(tmp_path, small_state(1)), tmp_path / "proof"
    (tensors_path,) = tmp_path.glob("tensors-*.safetensors")
    tensors_path.write_bytes(pickle.dumps(Payload(proof)))
    document = json.loads(path.read_text())
    del document["checksum"]
    document["tensors"]["sha256"] = hashlib.sha256(tensors_path.read_bytes()).hexdigest()
    text = json.dumps(document, separators=(",", ":"))
    document["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document, separators=(",", ":")))
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_state(tmp_path)
    assert not proof.exists()


class Payload:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_newer_version_is_refused(tmp_path):
    path = save_state(tmp_path, small_state(1))
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "version": 2}))
    with pytest.raises(CheckpointError, match=r"version 2; this adacomcat reads up to 1"):
        load_state(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"format": "other"}', "[" * 100_000])
def test_other_peoples_json_is_refused(tmp_path, text):
    (tmp_path / CHECKPOINT_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="no checkpoint of adacomcat"):
        load_state(tmp_path)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.*missing"):
        load_state(tmp_path / "nowhere")
