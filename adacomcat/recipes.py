"""The recipes: a data set, a dense model and how it is trained, searched and finetuned.

Plain data, for the command line and for the study's workloads. Settings are those of
`adacomcat.config`, as `adacomcat.settings.build_config` takes them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adacomcat.checks import require_known
from adacomcat.settings import build_config

IMAGENET_VARIABLE = "ADACOMCAT_IMAGENET"
"""Names the folder of ImageNet where no setting does."""


@dataclass(frozen=True)
class Recipe:
    """A data set, a dense model and a training recipe.

    Attributes:
        name: what the command line and a study call it.
        description: one line.
        settings: of `TrialConfig`.
    """

    name: str
    description: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def recipes() -> tuple[Recipe, ...]:
    """All recipes; the first is the default of a study."""
    sizes = ("tiny", "small", "base")
    published = tuple(_deit_imagenet(size) for size in sizes)
    as_reference = tuple(_upstream_of(recipe) for recipe in published)
    cifar = (_cifar(10), _cifar(100))
    return (_digits(), _fashion_mnist(), _synthetic(), *cifar, *published, *as_reference)


def find_recipe(name: str, flag: str) -> Recipe:
    """The recipe of that name.

    Args:
        name: of a recipe.
        flag: what the user wrote it for, for the message.

    Raises:
        ValueError: there is none (the nearest valid name is given).
    """
    known = {recipe.name: recipe for recipe in recipes()}
    require_known(name, known, flag)
    return known[name]


def upstream(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings changed to what the reference implementation does, confounds included.

    1. It searches and selects on the images that it reports, and trains on all others:
       `data.leakage` names both uses.
    2. The temperature anneals once a search.
    3. The optimizer is rebuilt at every search. (Its first epoch at the unscaled rate is not
       copied: the rate is scaled before the optimizer is built.)
    4. A search truncates the factors in force, so that a rank can only fall, and its menu has
       ranks at which two factors cost more than the dense matrix.
    5. The alignment weight compounds.
    6. Its interval, history and temperature are lost at a restart; here they never are.

    It also takes the most probable rank of each site, whatever that adds up to, and drops the
    biases of attention, while its finetuning has biases again.
    """
    return {
        **settings,
        "data.search_from": "test",
        "data.search_fraction": 0.0,
        "data.search_images": None,
        "data.val_from": "test",
        "data.val_fraction": 0.0,
        "search.clock": "per_search",
        "search.decision": "argmax",
        "search_phase.optimizer_state": "rebuild",
        "search_phase.distill.align_schedule": "compounding",
        "finetune.distill.align_schedule": "compounding",
        "method.space": "paper",
        "method.allow_larger": True,
        "method.source": "current",
        "method.biases": "drop",
    }


def diffrate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings changed to a search for token rates (DiffRate, arXiv 2305.17997).

    As published: three searches with frozen weights, one an epoch, of as many steps as ImageNet has
    batches of 1024; AdamW without weight decay, from 0.01 to 0.001; the squared penalty of MACs;
    30 epochs of finetuning at a rate of 2e-5 whatever the batch; no distillation. The target is
    that of DeiT-S at 2.9 of 4.6 GMACs.

    Where a recipe trains its dense model itself, that is a small one: a search takes 100 steps at
    ten times the rate, which move a logit about as far, against a penalty ten times as heavy, since
    one of few tokens says more; and finetuning stays as the recipe has it.

    Differs: a search sees the images that are kept for it, as they are, in batches of the recipe's
    size, with the model in evaluation mode; the rate falls step by step; the unit of the penalty
    is in proportion to the model, see `SearchConfig.penalty_unit`.
    """
    free = ("method", "schedule")
    kept = {key: value for key, value in settings.items() if key.partition(".")[0] not in free}
    config = build_config(kept)
    small = config.dense.recipe.epochs > 0
    finetune = {
        "finetune.epochs": 30,
        "finetune.lr": 2e-5,
        "finetune.min_lr": 1e-6,
        "finetune.lr_batch_size": config.finetune.batch_size,
    }
    return {
        **kept,
        "method": {"name": "diffrate"},
        "schedule": {"kind": "explicit", "epochs": [0, 1, 2]},
        "budget.unit": "macs",
        "budget.reduction": 0.37,
        "budget.absolute": None,
        "search.steps": 100 if small else 1251,
        "search.images": None,
        "search.stable_steps": None,
        "search.lr": 0.1 if small else 0.01,
        "search.min_lr": 0.01 if small else 0.001,
        "search.weight_decay": 0.0,
        "search.noise": False,
        "search.penalty": "squared",
        "search.penalty_weight": 50.0 if small else 5.0,
        "search_phase.epochs": 3,
        "search_phase.frozen": True,
        **({} if small else finetune),
        **{
            f"{phase}.distill.{key}": value
            for phase in ("search_phase", "finetune")
            for key, value in (("kind", "none"), ("align_blocks", []))
        },
    }


def diffrate_reference(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `diffrate`, changed to what the published code does in a search.

    1. Tokens a block differ by four. (All published DeiT rates but one end in counts that this
       cannot reach.)
    2. Sizes of merged tokens are damped by their similarity, below zero too, and kept at 1 or more
       in a search alone.
    3. MACs are those of the paper's formula; where a block prunes and merges, both counts get the
       gradient of the smaller one. A unit of the penalty is 1e9 of them, whatever the model: on a
       small one the penalty hardly pulls.
    4. Dropout and drop-path are on.
    5. The counts that the search ends with are the plan, whatever that costs.

    Not copied: mixup and augmentation of the images that a search sees, of which it sees all that
    the weights are trained on.
    """
    return {
        **diffrate(settings),
        "method": {
            "name": "diffrate",
            "granularity": 4,
            "sizes": "reference",
            "mask_gradient": "reference",
            "min_gradient": "both",
            "macs": "published",
        },
        "search.penalty_unit": 1e9,
        "search.train_mode": True,
        "search.decision": "argmax",
    }


def both(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a search for ranks, changed to one for ranks and token rates together.

    The budget is in MACs, which both save, and the penalty the squared one, which pulls to it from
    both sides. A recipe's list of fractions is centered on what ranks save alone; here they save
    less, and have the method's own list. Blocks are not aligned with the dense model's, which have
    more tokens.
    """
    kept = {key: value for key, value in settings.items() if key.partition(".")[0] != "method"}
    method = build_config(settings).method
    ranks = {key: value for key, value in method.items() if key not in ("name", "fractions")}
    return {
        **kept,
        "method": {"name": "lowrank+diffrate", "lowrank": ranks},
        "budget.unit": "macs",
        "search.penalty": "squared",
        "search_phase.distill.align_blocks": [],
        "finetune.distill.align_blocks": [],
    }


def imagenet_recipe(*, base: bool) -> dict[str, Any]:
    """The published recipe of DeiT on images from files, without data, model and weights.

    Sources: the commands and defaults of ComCAT (arXiv 2305.17235) and Adaptive-ComCAT, which are
    DeiT's (arXiv 2012.12877, table 9) where they say nothing: 300 epochs of finetuning on four
    workers with 256 images each among them. Differs: both phases repeat augmentation, the
    reference's search phase (one GPU) does not; bfloat16 for float16.

    Args:
        base: the numbers of DeiT-Base, not of Small.
    """
    common = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "bf16": True}
    return {
        "budget": {"reduction": 0.6 if base else 0.5},
        "schedule": {"kind": "adaptive"},
        "search": {"batch_size": 16 if base else 64, "beta": 1.5, "bf16": True},
        "search_phase": {
            "epochs": 30,
            "batch_size": 320 if base else 512,
            "lr": 5e-4,
            "min_lr": 1e-5,
            "weight_decay": 0.05,
            **common,
            "distill": {"kind": "hard", "align_blocks": [0, 1, -2, -1]},
        },
        "finetune": {
            "epochs": 300,
            "batch_size": 1024,
            "lr": 1e-4,
            "min_lr": 1e-6 if base else 5e-6,
            "weight_decay": 5e-3,
            **common,
            # The reference gives Base the rate as it stands, unscaled.
            "lr_batch_size": 1024 if base else 512,
            "distill": {"kind": "hard", "align_blocks": [0, 1, -2, -1]},
        },
    }


def deit_augmentation() -> dict[str, Any]:
    """What DeiT does to a training image (arXiv 2012.12877, table 9), mixup and cutmix aside."""
    return {
        "augment": "resized_crop",
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "repeats": 3,
    }


def _deit_imagenet(size: str) -> Recipe:
    """DeiT on ImageNet; the data is where `data.root` or ADACOMCAT_IMAGENET says."""
    data = {
        "name": "imagefolder",
        "root": os.environ.get(IMAGENET_VARIABLE),
        "image_size": 224,
        "num_workers": 8,
        "search_images": 50_000,
        "val_fraction": 0.01,
        **deit_augmentation(),
    }
    return Recipe(
        name=f"deit_{size}_imagenet",
        description=f"DeiT-{size.capitalize()} on ImageNet, the published recipe",
        settings={
            "data": data,
            "model": {
                "name": f"deit_{size}_patch16_224.fb_in1k",
                "options": {"drop_path_rate": 0.1},
            },
            "dense": {"weights": "timm", "recipe": {"epochs": 0}},
            "method": {"name": "lowrank", "space": "paper"},
            **imagenet_recipe(base=size == "base"),
        },
    )


def _upstream_of(recipe: Recipe) -> Recipe:
    return Recipe(
        name=f"{recipe.name}_upstream",
        description=f"{recipe.description}, searched on the test images as its authors did",
        settings=upstream(recipe.settings),
    )


def _cifar(classes: int) -> Recipe:
    """CIFAR through torchvision, and a ViT of 64 tokens that learns it from random weights.

    Sizes and rates are those that small ViTs are trained with on CIFAR from scratch (arXiv
    2112.13492, section 4.1). The candidates of a site are centered on the budget.
    """
    common = {"mixup": 0.8, "cutmix": 1.0, "bf16": True}
    keep = {"keep_dense": ["head"]} if classes == 10 else {}
    return Recipe(
        name=f"cifar{classes}",
        description=f"CIFAR-{classes}, ViT 192 x 9 blocks x 3 heads, patch 4",
        settings={
            "data": {
                "name": f"torchvision/CIFAR{classes}",
                "search_images": 5000,
                "augment": "crop_flip",
                "random_erasing": 0.25,
            },
            "model": {"options": _vit(patch=4, width=192, depth=9, heads=3)},
            "dense": {"recipe": {"epochs": 100, "warmup_epochs": 10, **_rate(128, 1e-3), **common}},
            "method": {"name": "lowrank", "fractions": [1 / 6, 1 / 3, 1 / 2, 2 / 3], **keep},
            "budget": {"reduction": 0.5},
            "search": {"bf16": True, "lr": 0.1},
            "search_phase": {"epochs": 30, **_rate(128, 5e-4), **common},
            "finetune": {"epochs": 30, **_rate(128, 1e-4), **common},
        },
    )


def _digits() -> Recipe:
    """8 x 8 gray digits, embedded in scikit-learn: 1 797 images, no download."""
    return Recipe(
        name="digits",
        description="scikit-learn's 8 x 8 digits, ViT 96 x 4 blocks x 4 heads, patch 2",
        settings={
            "data": {"name": "digits", "augment": "affine"},
            "model": {"options": _vit(patch=2, width=96, depth=4, heads=4)},
            **_small_recipe(),
        },
    )


def _fashion_mnist() -> Recipe:
    """28 x 28 gray clothing; a share of the images, so that a trial takes a minute or two."""
    return Recipe(
        name="fashion_mnist",
        description="Fashion-MNIST (3 000 images to learn from), the same ViT, patch 7",
        settings={
            "data": {"name": "fashion_mnist", "max_images": 3000, "augment": "affine"},
            "model": {"options": _vit(patch=7, width=96, depth=4, heads=4)},
            **_small_recipe(),
        },
    )


def _synthetic() -> Recipe:
    """Colored noise with a class in it: seconds a trial, for tests and for trying things out."""
    return Recipe(
        name="synthetic",
        description="made-up images and a tiny ViT: seconds a trial, for trying things out",
        settings={
            "data": {"name": "synthetic", "options": {"images": 1000}},
            "model": {"options": _vit(patch=4, width=32, depth=2, heads=2)},
            "dense": {"recipe": {"epochs": 3, **_rate(32, 1e-3)}},
            "method": {"name": "lowrank", "fractions": [1 / 8, 1 / 4, 3 / 8, 1 / 2]},
            "budget": {"reduction": 0.58},
            "search": {"batch_size": 32, "lr": 0.3},
            "search_phase": {"epochs": 6, **_rate(32, 1e-3)},
            "finetune": {"epochs": 2, **_rate(32, 1e-3)},
        },
    )


def _small_recipe() -> dict[str, Any]:
    """The recipe of a small ViT with 16 tokens on a laptop.

    The budget is tight enough to cost accuracy, or there would be nothing to search for, and the
    candidates are centered on it (their mean costs a little less than it allows), so that a search
    is not all penalty. The published search takes 782 steps at a rate of 0.01; here 20 steps at 0.3
    move a logit about as far. The head has 10 outputs: nothing to factorize.
    """
    fractions = [1 / 24, 1 / 12, 1 / 8, 1 / 6]
    return {
        "dense": {"recipe": {"epochs": 60, "warmup_epochs": 5, **_rate(32, 2e-3)}},
        "method": {"name": "lowrank", "fractions": fractions, "keep_dense": ["head"]},
        "budget": {"reduction": 0.87},
        "search": {"steps": 20, "batch_size": 100, "lr": 0.3},
        "search_phase": {"epochs": 20, **_rate(64, 7e-4)},
        "finetune": {"epochs": 4, **_rate(64, 2e-4)},
    }


def _rate(batch_size: int, lr: float) -> dict[str, float]:
    """A batch size with the learning rate at that very size, not at DeiT's 512 images."""
    return {"batch_size": batch_size, "lr": lr, "lr_batch_size": batch_size}


def _vit(*, patch: int, width: int, depth: int, heads: int) -> dict[str, object]:
    """Options of timm's plain ViT; sizes of images and classes come from the data."""
    return {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "global_pool": "avg",
        "class_token": False,
    }
