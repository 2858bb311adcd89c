"""Restricted unpickling of third-party checkpoints: no code in them is run."""

import argparse
import pathlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adacomcat.checks import require

DAMAGED = "no checkpoint of PyTorch, or a damaged one; nothing of it was run"


def load_pickle(path: Path) -> Any:
    """Read a `.pth` file; tensors come back on the CPU.

    PyTorch's restricted unpickler builds tensors and plain data. Added are the things beside them
    in checkpoints of DeiT and ComCAT: the command line (`argparse.Namespace`), paths, and NumPy's
    numbers. Anything else is refused before it is called, so a file cannot run code.

    Raises:
        ValueError: no such file, a file that is damaged, or one that wants more than that.
    """
    require(path.is_file(), "checkpoint", str(path), "a file that exists")
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is not None:
            raise ValueError(
                f"{path}: refused, because loading it would call {found[1]}, and a checkpoint "
                "holds tensors and plain data; nothing of it was run"
            ) from error
        raise ValueError(f"{path}: {DAMAGED}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: {DAMAGED}") from error


def _allowed() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    scalar: Any = np.float64(0).__reduce__()[0]
    numbers = [np.float64, np.float32, np.int64, np.int32, np.bool_]
    return [
        argparse.Namespace,
        # Of any system, read on any system; Python 3.13 alone pickles them under the second name.
        (pathlib.PurePosixPath, "pathlib.PosixPath"),
        (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
        (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
        (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
        np.dtype,
        *(type(np.dtype(number)) for number in numbers),
        # NumPy 1 and 2 pickle a number under different names.
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
