"""Seeds of all random streams of a trial, independent of one another.

A stream is named by what it is for (`"search", epoch`), and its seed is a hash of the trial's seed
and that name. So arms with the same seed see the same batches, augmentations and noise at the same
epoch, however often they search, and a resume at an epoch boundary needs no saved generator
states.
"""

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*names: int | str) -> int:
    """A 63-bit seed from a sequence of names, the same on every machine and Python."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: int | str) -> "torch.Generator":
    """A CPU generator of its own for a named stream."""
    import torch  # Not at the top: descriptions derive seeds where there is no torch.

    return torch.Generator().manual_seed(derive_seed(*names))


def seed_everything(*names: int | str) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators for a named stretch of work."""
    import numpy as np
    import torch

    seed = derive_seed(*names)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
