"""Numbers of published implementations, read from folders that are no part of the package.

`ADACOMCAT_GOLDEN` names the folder of reference numbers, `ADACOMCAT_REFERENCE` that of published
tables; without them, both are looked for in `shared/` beside the checkout. A key that a file lacks
skips only the comparison that needs it.
"""

import csv
import os
import unittest
from pathlib import Path
from typing import Any, Self

import numpy as np
import timm
import torch
from torch import nn

from adacomcat.methods.tokens.blocks import TokenBlocks
from adacomcat.methods.tokens.rates import Rates
from adacomcat.models.registry import tokens_of

SHARED = Path(__file__).parents[3] / "shared"
KEPT = ("prune_kept", "merge_kept")


def golden_folder() -> Path:
    """The folder of reference numbers, whether it exists or not."""
    return Path(os.environ.get("ADACOMCAT_GOLDEN", SHARED / "golden"))


def reference_folder() -> Path:
    """The folder of published tables, whether it exists or not."""
    return Path(os.environ.get("ADACOMCAT_REFERENCE", SHARED / "reference"))


def reference_rows(name: str) -> list[dict[str, str]]:
    """The rows of a published table.

    Raises:
        unittest.SkipTest: the folder lacks it.
    """
    path = reference_folder() / name
    if not path.is_file():
        raise unittest.SkipTest(f"no {name} in {path.parent}; ADACOMCAT_REFERENCE names the folder")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Numbers(dict[str, torch.Tensor]):
    """Tensors of a file of reference numbers, by key.

    Indexing raises `unittest.SkipTest` with the name of a key that is not there, so that a test
    skips what a file does not hold; `in` and `get` do as ever.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], source: Path, prefix: str = "") -> None:
        super().__init__(tensors)
        self.source, self.prefix = source, prefix

    @classmethod
    def read(cls, *names: str) -> Self:
        """The numbers of an .npz file below the golden folder; none where it does not exist."""
        path = golden_folder().joinpath(*names)
        if not path.is_file():
            return cls({}, path)
        with np.load(path) as arrays:
            return cls({key: torch.from_numpy(arrays[key]) for key in arrays.files}, path)

    def __missing__(self, key: str) -> torch.Tensor:
        raise unittest.SkipTest(f"no {self.prefix}{key} in {self.source}")

    @property
    def absent(self) -> str:
        """The reason to skip all tests of a file that does not exist."""
        return f"no reference numbers at {self.source}; ADACOMCAT_GOLDEN names the folder"

    def below(self, prefix: str) -> Self:
        """Entries whose keys start with a prefix, by the rest of the key."""
        found = {k.removeprefix(prefix): v for k, v in self.items() if k.startswith(prefix)}
        return type(self)(found, self.source, self.prefix + prefix)

    def folders(self, prefix: str = "") -> list[str]:
        """The first parts of keys such as `part/rest`, sorted, of those with a prefix."""
        return sorted({k.split("/")[0] for k in self if "/" in k and k.startswith(prefix)})


def comcat_vit(geometry: torch.Tensor, **options: Any) -> nn.Module:
    """A plain vision transformer of `comcat_core.npz`.

    Args:
        geometry: (6,), embed, depth, heads, classes, image, patch.
        options: of timm, in place of those sizes.
    """
    names = ("embed_dim", "depth", "num_heads", "num_classes", "img_size", "patch_size")
    sizes: dict[str, Any] = dict(zip(names, geometry.tolist(), strict=True))
    return timm.create_model("vit_tiny_patch16_224", **(sizes | options))


def vit_families(numbers: Numbers) -> list[str]:
    """The families of `diffrate.npz` that are plain vision transformers."""
    return [name for name in numbers.folders() if f"{name}/w/patch_embed.proj.weight" in numbers]


def images_of(numbers: Numbers, family: str) -> torch.Tensor:
    """(B, 3, H, H), a family's own images or those that it shares with `deit`."""
    own = numbers.get(f"{family}/input")
    return numbers["deit/input"] if own is None else own


def depth_of(weights: dict[str, torch.Tensor]) -> int:
    """Blocks of a plain vision transformer."""
    return sum(name.endswith("attn.qkv.weight") for name in weights)


def diffrate_vit(numbers: Numbers, family: str) -> nn.Module:
    """The dense model of a family of `diffrate.npz`, in evaluation mode.

    Weights do not say how many heads there are: `<family>/geometry` or `geometry` (embed, depth,
    heads, ...) does, or else the stored logits, which one number of heads reproduces.

    Raises:
        unittest.SkipTest: nothing tells the number of heads.
    """
    for name in (f"{family}/geometry", "geometry"):
        if name in numbers:
            return _vit(numbers, family, int(numbers[name][2]))
    width = len(numbers[f"{family}/w/patch_embed.proj.weight"])
    heads = [count for count in range(1, width + 1) if width % count == 0]
    return _vit(numbers, family, min(heads, key=lambda count: _error(numbers, family, count)))


@torch.no_grad()
def _error(numbers: Numbers, family: str, heads: int) -> float:
    """The distance between stored logits and those with so many heads."""
    model: Any = _vit(numbers, family, heads)
    if f"{family}/dense_logits" in numbers:
        wanted = numbers[f"{family}/dense_logits"]
    else:
        below = numbers.below(f"{family}/")
        told = (below.below(f"{case}/") for case in below.folders("eval_"))
        case = next((case for case in told if {"logits", *KEPT} <= case.keys()), None)
        if case is None:
            raise unittest.SkipTest(
                f"no {family}/geometry and no logits that tell the heads in {numbers.source}"
            )
        rates = Rates(*(tuple(case[kind].tolist()) for kind in KEPT))
        model.blocks = TokenBlocks(list(model.blocks), rates, tokens_of(model)).eval()
        wanted = case["logits"]
    return float((model(images_of(numbers, family)) - wanted).abs().max())


def _vit(numbers: Numbers, family: str, heads: int) -> nn.Module:
    weights = numbers.below(f"{family}/w/")
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    pooled = "fc_norm.weight" in weights
    model = timm.create_model(
        "vit_tiny_patch16_224",
        embed_dim=width,
        depth=depth_of(weights),
        num_heads=heads,
        mlp_ratio=len(weights["blocks.0.mlp.fc1.weight"]) / width,
        num_classes=len(weights["head.weight"]),
        img_size=images_of(numbers, family).shape[-1],
        patch_size=patch,
        global_pool="avg" if pooled else "token",
        fc_norm=pooled,
    )
    model.load_state_dict(weights, strict=True)
    return model.eval()
