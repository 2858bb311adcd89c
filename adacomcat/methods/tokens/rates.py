"""Token counts of every block: the rates of a model, and published ones.

Counts are of tokens that are left, prefix tokens (class, distillation) among them, as in the
published tables. They need not fall from block to block: a count that is no smaller than what
arrives changes nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from adacomcat.checks import require, require_known

FILE = "rates.json"
"""Published counts by the authors' name of a model and by its rate, in billions of MACs
(DiffRate, arXiv 2305.17997, the repository's `compression_rate.json`, its texts as integers)."""
AUTHORS_NAMES = {
    "deit_tiny_patch16_224": "ViT-T-DeiT",
    "deit_small_patch16_224": "ViT-S-DeiT",
    "deit_base_patch16_224": "ViT-B-DeiT",
    "vit_base_patch16_224.mae": "ViT-B-MAE",
    "vit_large_patch16_224.mae": "ViT-L-MAE",
    "vit_huge_patch14_224.mae": "ViT-H-MAE",
    "caformer_s36": "CAFormer-S36",
}
"""timm's name -> theirs. With a tag where models of other training have the same architecture;
rates of MAE are those of its finetuned models, which average over the patches."""
MEAN = {"global_pool": "avg", "fc_norm": True}
"""Options of timm for a head that averages over the patches, as that of MAE's finetuned models."""
LAST_STAGE = {"CAFormer-S36": 3}
"""Blocks at the end of the lists that are of the stage after the one that compresses."""


@dataclass(frozen=True)
class Step:
    """Tokens in one block: that come in, that pruning leaves, and that merging leaves."""

    before: int
    pruned: int
    after: int

    @property
    def compresses(self) -> bool:
        return self.after < self.before

    @property
    def merges(self) -> bool:
        return self.after < self.pruned


@dataclass(frozen=True)
class Rates:
    """Counts by block; None keeps all that come in."""

    prune: tuple[int | None, ...]
    merge: tuple[int | None, ...]

    def steps(self, tokens: int) -> tuple[Step, ...]:
        """Counts in each block if so many tokens enter the first (running minimum)."""
        steps = []
        for prune, merge in zip(self.prune, self.merge, strict=True):
            pruned = tokens if prune is None else min(tokens, prune)
            after = pruned if merge is None else min(pruned, merge)
            steps.append(Step(tokens, pruned, after))
            tokens = after
        return tuple(steps)


def published(model: str) -> Mapping[float, Rates]:
    """The published counts of a model, by rate in billions of MACs.

    Args:
        model: timm's name, with its tag or without.

    Raises:
        ValueError: none are published for it; names the models that have some.
    """
    plain = model.partition(".")[0]
    name = plain if plain in AUTHORS_NAMES else model
    require_known(name, AUTHORS_NAMES, "published rates: model")
    own = AUTHORS_NAMES[name]
    found = {}
    for rate, counts in _read()[own].items():
        depth = len(counts["merge"]) - LAST_STAGE.get(own, 0)
        # Of CAFormer, which only merges, the file says nothing here.
        prune = counts["prune"] or [None] * depth
        found[float(rate)] = Rates(tuple(prune[:depth]), tuple(counts["merge"][:depth]))
    return found


def published_at(model: str, rate: float) -> Rates:
    """The published counts of a model at one rate.

    Raises:
        ValueError: none are published; names the rates that are.
    """
    known = published(model)
    allowed = f"{', '.join(map(str, known))}, those published for {model}"
    require(rate in known, "published rate", rate, allowed)
    return known[rate]


def published_options(model: str) -> dict[str, Any]:
    """Options with which timm makes the model that the published rates of a name are of."""
    return dict(MEAN) if model.endswith(".mae") else {}


@cache
def _read() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    read: Mapping[str, Mapping[str, Mapping[str, Any]]]
    read = json.loads((files(__package__) / FILE).read_text())
    return read
