"""The workloads: a data set, a dense model and a training recipe each."""

from typing import Any

from study.schema import Workload


def workloads() -> tuple[Workload, ...]:
    """All workloads; the first is the default."""
    return (digits(), fashion_mnist(), synthetic())


def digits() -> Workload:
    """8 x 8 grey digits, embedded in scikit-learn: 1 797 images, no download."""
    return Workload(
        name="digits",
        description="scikit-learn's 8 x 8 digits, ViT 96 x 4 blocks x 4 heads, patch 2",
        defaults={
            "data": {"name": "digits", "augment": "affine"},
            "model": {"options": _vit(patch=2, width=96, depth=4, heads=4)},
            **_small_recipe(),
        },
    )


def fashion_mnist() -> Workload:
    """28 x 28 grey clothing; a share of the images, so that a trial takes a minute or two."""
    return Workload(
        name="fashion_mnist",
        description="Fashion-MNIST (3 000 images to learn from), the same ViT, patch 7",
        defaults={
            "data": {"name": "fashion_mnist", "max_images": 3000, "augment": "affine"},
            "model": {"options": _vit(patch=7, width=96, depth=4, heads=4)},
            **_small_recipe(),
        },
    )


def synthetic() -> Workload:
    """Coloured noise with a class in it: seconds a trial, for tests and for trying things out."""
    return Workload(
        name="synthetic",
        description="made-up images and a tiny ViT: seconds a trial, for trying things out",
        defaults={
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
    candidates are centred on it (their mean costs a little less than it allows), so that a search
    is not all penalty. The published search takes 782 steps at a rate of 0.01; here 20 steps at 0.3
    move a logit about as far. The head has 10 outputs: nothing to factorise.
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
