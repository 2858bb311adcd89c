import argparse
import os
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from adacomcat.models.pickles import load_pickle


class Runs:
    """What a file with a payload holds: unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def held():
    weight = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    return {
        "model": {"weight": weight.detach(), "half": torch.ones(2).bfloat16()},
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "scaler": {},
        "args": argparse.Namespace(
            lr=np.float64(0.5), output_dir=Path("out"), nested=argparse.Namespace(beta=1.5)
        ),
        "accuracy": [np.float32(79.5), np.int64(3), np.bool_(True)],
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_what_checkpoints_hold_is_read(tmp_path, zipped):
    path, content = tmp_path / "checkpoint.pth", held()
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = load_pickle(path)
    assert read["args"] == content["args"]
    assert read["accuracy"] == content["accuracy"]
    for name, value in content["model"].items():
        assert torch.equal(read["model"][name], value)
    moments = content["optimizer"]["state"][0]
    assert torch.equal(read["optimizer"]["state"][0]["exp_avg"], moments["exp_avg"])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("hidden", [False, True], ids=["at the top", "in the arguments"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, zipped, hidden):
    mark, path = tmp_path / "mark", tmp_path / "checkpoint.pth"
    payload = Runs(f"touch {mark}")
    content = {"model": {"w": torch.ones(1)}, "args": argparse.Namespace(x=payload)}
    torch.save(content if hidden else payload, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError) as refused:
        load_pickle(path)
    assert not mark.exists()
    text = str(refused.value)
    assert text.startswith(f"{path}: refused, because loading it would call ")
    assert f"{os.system.__module__}.system" in text and text.endswith("nothing of it was run")
    # The payload is a real one.
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_plain_pickle_runs_nothing_either(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "checkpoint.pth"
    path.write_bytes(pickle.dumps(Runs(f"touch {mark}"), protocol=2))
    with pytest.raises(ValueError, match="nothing of it was run"):
        load_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize("cut", [0, 5, 400, -100])
def test_a_damaged_file_is_named(tmp_path, cut):
    path = tmp_path / "checkpoint.pth"
    torch.save(held(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"checkpoint\.pth: no checkpoint of PyTorch"):
        load_pickle(path)


class WindowsPath:
    """Pickled as a path on Windows is."""

    def __reduce__(self):
        return pathlib.WindowsPath, ("C:", "out")


def test_a_path_of_another_system_is_read(tmp_path):
    torch.save(WindowsPath(), tmp_path / "checkpoint.pth")
    assert load_pickle(tmp_path / "checkpoint.pth") == pathlib.PureWindowsPath("C:", "out")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pth', allowed: a file that exists"):
        load_pickle(tmp_path / "nowhere.pth")


def test_the_allow_list_is_left_as_it_was(tmp_path):
    # Kept by PyTorch as a set, whose order is not its own.
    before = set(torch.serialization.get_safe_globals())
    torch.save(held(), tmp_path / "checkpoint.pth")
    load_pickle(tmp_path / "checkpoint.pth")
    assert set(torch.serialization.get_safe_globals()) == before
