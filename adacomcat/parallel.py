"""Data parallelism over torch.distributed; no-ops without a process group."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


def is_parallel() -> bool:
    """Whether more than one worker trains this model."""
    return world() > 1


def rank() -> int:
    """Index of this worker, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wrap(model: nn.Module) -> nn.Module:
    """The model to call in training: averages gradients where there are several workers."""
    if not is_parallel():
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def synchronized(wrapped: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Context of a forward and its backward: gradients are averaged over workers, or not yet.

    What is not averaged yet adds up on each worker, until a backward that averages the sums.
    """
    if now or not isinstance(wrapped, DistributedDataParallel):
        return nullcontext()
    return wrapped.no_sync()


def sum_over_workers_(tensor: Tensor) -> Tensor:
    """Add a tensor up over the workers, in place."""
    if is_parallel():
        dist.all_reduce(tensor)
    return tensor


def from_first_worker(value: Value) -> Value:
    """The value that the first worker has, on every worker."""
    if not is_parallel():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    """Return when every worker is here."""
    if is_parallel():
        dist.barrier()


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that clocks include its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
