"""bfloat16 autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(bf16: bool, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 if enabled and supported by the device; otherwise nothing changes."""
    usable = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if bf16 and usable:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
