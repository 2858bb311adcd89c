"""The teacher's logits on disk: computed once, shared by all trials that ask the same teacher.

Where nothing of an image is drawn, the teacher says the same of it in every epoch of every trial. A
file holds that for one teacher, one split and one precision:

    teacher-<key>.safetensors    `logits` (N, K), in the order of the split, and their SHA-256

The key is a hash of all that determines them, so a file is never out of date. It is written whole
or not at all; two processes that miss it at once both write it, with the same content.

Shapes: N images of the split, B of one worker's batch, K classes.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from adacomcat import parallel
from adacomcat.checks import require
from adacomcat.config import DataConfig, ModelConfig, PhaseConfig, TrialConfig
from adacomcat.data import Loader, Split, make_loader
from adacomcat.data.images import DecodedImages
from adacomcat.files import atomic_write_bytes, default_cache
from adacomcat.precision import autocast

BATCH_SIZE = 256
"""Of the pass that computes them, over all workers."""
CHUNK = 65_536
"""Images whose logits are exchanged between workers at a time."""


def check_cacheable(config: TrialConfig) -> None:
    """Raise unless each phase that keeps its teacher's logits needs no more, and they never change.

    Raises:
        ValueError: names the setting.
    """
    data = config.data
    for phase in ("search_phase", "finetune"):
        recipe: PhaseConfig = getattr(config, phase)
        distill = recipe.distill
        if distill.cache is None or recipe.epochs == 0 or recipe.frozen:
            continue
        used = f"with {phase}.distill.cache"
        kind = distill.kind
        require(kind != "none", f"{phase}.distill.kind", kind, f"soft, hard {used}")
        allowed = {
            "data.augment": (data.augment, "none"),
            "data.auto_augment": (data.auto_augment, None),
            "data.random_erasing": (data.random_erasing, 0),
            # An image that was left out would have no logits if it could be read the next time.
            "data.skip_unreadable": (data.skip_unreadable, False),
            f"{phase}.mixup": (recipe.mixup, 0),
            f"{phase}.cutmix": (recipe.cutmix, 0),
            f"{phase}.distill.align_blocks": (distill.align_blocks, ()),
        }
        for field, (got, only) in allowed.items():
            require(got == only, field, got, f"{only!r} {used}")


class CachedTeacher:
    """A frozen teacher, and the files of its logits for one split; none is made before its use."""

    def __init__(
        self, teacher: nn.Module, model: ModelConfig, split: Split, data: DataConfig
    ) -> None:
        """
        Args:
            teacher: on this worker's device.
            model: what the teacher was made from.
            split: that the students train on.
            data: how it is read, without augmentation.
        """
        self.teacher, self.model, self.split, self.data = teacher, model, split, data
        self._opened: dict[tuple[str, bool], Tensor] = {}

    def beside(self, loader: Loader, recipe: PhaseConfig) -> "Loader | Taught":
        """The batches of a loader of the split, with logits where the recipe keeps them.

        Every worker calls this at the same time: where a file is missing, each does its share.

        Raises:
            ValueError: a file that is damaged; names it.
        """
        if recipe.distill.cache is None:
            return loader
        wanted = (recipe.distill.cache, recipe.bf16)
        if wanted not in self._opened:
            self._opened[wanted] = self._open(*wanted)
        return Taught(loader, self._opened[wanted])

    def _open(self, folder: str, bf16: bool) -> Tensor:
        """(N, K), mapped from its file, which is made if need be."""
        path = default_cache() / folder / f"teacher-{self._key(bf16)}.safetensors"
        device = next(self.teacher.parameters()).device
        missing = torch.tensor(0 if path.exists() else 1, device=device)
        if parallel.sum_over_workers_(missing) > 0:
            logits = self._compute(bf16, device)
            content = safetensors.torch.save({"logits": logits}, {"sha256": _sha256(logits)})
            if parallel.rank() == 0:
                atomic_write_bytes(path, content)
            parallel.wait_for_all()
            if not path.exists():  # on another machine, in a folder of its own
                atomic_write_bytes(path, content)
        return _read(path)

    def _key(self, bf16: bool) -> str:
        images = self.split.images
        parts = {
            "model": asdict(self.model),
            "split": self.split.sha256,
            "images": len(self.split),
            "spec": asdict(self.split.spec),
            "crop_pct": images.crop_pct if isinstance(images, DecodedImages) else None,
            "bf16": bf16,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for name, tensor in self.teacher.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_sha256(tensor).encode())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _compute(self, bf16: bool, device: torch.device) -> Tensor:
        """(N, K), on the CPU, in the precision in which the teacher gives them."""
        loader = make_loader(
            self.split,
            self.data,
            batch_size=BATCH_SIZE,
            seed=0,
            train=False,
            rank=parallel.rank(),
            world=parallel.world(),
            device=device,
        )
        self.teacher.eval()
        table: Tensor | None = None
        for images, _, indices in loader.indexed():
            with autocast(bf16, device):
                logits = self.teacher(images).cpu()
            if table is None:
                table = logits.new_zeros(len(self.split), logits.shape[1])
            table[indices] = logits
        assert table is not None, "a worker without images cannot train"
        if parallel.is_parallel():
            for rows in table.split(CHUNK):
                # Only one worker has anything but zeros at an image: the sum is exact.
                rows.copy_(parallel.sum_over_workers_(rows.to(device, torch.float32, copy=True)))
        return table


class Taught:
    """A loader whose batches come with what the teacher makes of their images."""

    def __init__(self, loader: Loader, logits: Tensor) -> None:
        """Args: logits: (N, K), of the images of the loader's split, on the CPU."""
        self.loader, self.logits = loader, logits

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields: images and labels as the loader, and logits (B, K), on the images' device."""
        for images, labels, indices in self.loader.indexed():
            yield images, labels, self.logits[indices].to(images.device, non_blocking=True)


def _read(path: Path) -> Tensor:
    """The logits in a file, of which only the rows that are asked for get into memory for good."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            logits: Tensor = file.get_tensor("logits")
            wanted = (file.metadata() or {}).get("sha256")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: no logits of a teacher: {error}; delete it") from error
    if _sha256(logits) != wanted:
        raise ValueError(f"{path}: altered: its SHA-256 differs; delete it")
    return logits


def _sha256(tensor: Tensor) -> str:
    """Of a tensor's values."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
