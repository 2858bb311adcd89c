"""The workloads: a data set, a dense model and a training recipe each."""

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
            "dense": {"recipe": {"epochs": 60, "batch_size": 64, "lr": 8e-3, "warmup_epochs": 5}},
            "search_phase": {"epochs": 30, "batch_size": 64, "lr": 2e-3},
            "finetune": {"epochs": 10, "batch_size": 64, "lr": 1e-3},
        },
    )


def fashion_mnist() -> Workload:
    """28 x 28 grey clothing; a share of the images, so that a trial takes minutes."""
    return Workload(
        name="fashion_mnist",
        description="Fashion-MNIST (4 000 training images), ViT 128 x 4 blocks x 4 heads, patch 4",
        defaults={
            "data": {"name": "fashion_mnist", "max_images": 4000, "augment": "affine"},
            "model": {"options": _vit(patch=4, width=128, depth=4, heads=4)},
            "dense": {"recipe": {"epochs": 40, "batch_size": 64, "lr": 8e-3, "warmup_epochs": 3}},
            "search_phase": {"epochs": 30, "batch_size": 64, "lr": 2e-3},
            "finetune": {"epochs": 10, "batch_size": 64, "lr": 1e-3},
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
            "dense": {"recipe": {"epochs": 3, "batch_size": 32, "lr": 8e-3}},
            "search": {"batch_size": 32},
            "search_phase": {"epochs": 6, "batch_size": 32, "lr": 2e-3},
            "finetune": {"epochs": 2, "batch_size": 32, "lr": 1e-3},
        },
    )


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
