"""Recipes: a data set, a dense model, and settings for training, search and finetuning.

Plain data, for the command line and for the study's workloads. Settings are those of
`adacomcat.config`, as `adacomcat.overrides.build_config` takes them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from adacomcat.checks import require, require_known
from adacomcat.methods.lowrank.recipe import PRETRAINED, imagenet_recipe, reference
from adacomcat.methods.registry import DEFAULT, JOIN, Registration, registrations_of
from adacomcat.overrides import build_config

if TYPE_CHECKING:
    from torch import nn

Settings = Mapping[str, Any]

IMAGENET_VARIABLE = "ADACOMCAT_IMAGENET"
"""Environment variable with the folder of ImageNet, if no setting names one."""


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


class MethodRecipe(Protocol):
    """Interface of a method's `recipe` module; settings are as `build_config` takes them."""

    def adapt(
        self, settings: Settings, *, epochs: int | None = None, macs: int | None = None
    ) -> dict[str, Any]:
        """A recipe changed to one for this method.

        Args:
            settings: of a recipe for low ranks.
            epochs: of the search phase, where the user says.
            macs: of a model that is compressed already, and is to be finetuned.
        """

    def reference(self, settings: Settings, *, epochs: int | None = None) -> dict[str, Any]:
        """A recipe changed to the behavior of the published code, confounds included."""

    def part(self, method: Settings) -> dict[str, Any]:
        """The method's own settings beside another method, from those of a recipe's method."""

    def one_shot(self, method: Settings, *, images: bool) -> dict[str, Any]:
        """The method's own settings for `adacomcat.compress`, with images to look at or without."""


class PublishedPlans(Protocol):
    """Interface of a method's `published` module: plans that its authors published."""

    def model_options(self, name: str) -> dict[str, Any]:
        """Options of the model that the plans of timm's name are of."""

    def insert_(self, model: "nn.Module", name: str, rate: float) -> None:
        """Give a dense model the modules of a published plan.

        Args:
            model: on any device, the meta device too.
            name: timm's, of the model.
            rate: by which the plan is named.

        Raises:
            ValueError: nothing is published for that name or that rate, or the model is another.
        """


def for_method(
    settings: Settings,
    name: str,
    *,
    reference: bool = False,
    epochs: int | None = None,
    macs: int | None = None,
) -> dict[str, Any]:
    """A recipe for low ranks changed to one for another method, or for several.

    Args:
        settings: of the recipe.
        name: of the method.
        reference: what its published code does, instead of what we would.
        epochs: of the search phase, where the user says.
        macs: of a model that is compressed already, and is to be finetuned.

    Raises:
        ValueError: an unknown method, or one without published code.
    """
    found = registrations_of(name)
    if len(found) > 1:
        require(not reference, "--preset", "upstream", f"nothing with --method {name}: it is ours")
        return _together(settings, found)
    module = found[0].load_recipe()
    if module is None:
        require(not reference, "--preset", "upstream", f"nothing with --method {name}: it has none")
        free = {key: value for key, value in settings.items() if key.partition(".")[0] != "method"}
        return {**free, "method": {"name": name}}
    recipe: MethodRecipe = module
    if reference:
        return recipe.reference(settings, epochs=epochs)
    return recipe.adapt(settings, epochs=epochs, macs=macs)


def one_shot(method: Settings, *, images: bool) -> dict[str, Any]:
    """Settings of a method, completed for `adacomcat.compress`.

    Args:
        method: `name` and what the user says of the method.
        images: whether there are images to look at.

    Raises:
        ValueError: an unknown method.
    """
    found = registrations_of(str(method.get("name", DEFAULT)))
    if len(found) == 1:
        module = found[0].load_recipe()
        return dict(method) if module is None else module.one_shot(method, images=images)
    completed = dict(method)
    for each in found:
        module = each.load_recipe()
        if module is not None:
            completed[each.name] = module.one_shot(completed.get(each.name, {}), images=images)
    return completed


def _together(settings: Settings, found: Sequence[Registration]) -> dict[str, Any]:
    """Settings of a search for ranks, changed to one by several methods together.

    The budget is in a unit that all have, and the penalty the squared one, which pulls to it from
    both sides. Blocks are not aligned with the dense model's where those have more tokens.
    """
    kept = {key: value for key, value in settings.items() if key.partition(".")[0] != "method"}
    config = build_config(settings)
    own, kinds = {}, [each.load_method() for each in found]
    for each in found:
        module = each.load_recipe()
        own[each.name] = {} if module is None else module.part(config.method)
    common = [unit for unit in kinds[0].units if all(unit in kind.units for kind in kinds)]
    asked = config.budget.unit
    unit = asked if asked in common or not common else common[0]
    unaligned: dict[str, Any] = {
        f"{phase}.distill.align_blocks": [] for phase in ("search_phase", "finetune")
    }
    return {
        **kept,
        "method": {
            "name": JOIN.join(each.name for each in found),
            **{name: values for name, values in own.items() if values},
        },
        "budget.unit": unit,
        "search.penalty": "squared",
        **({} if all(kind.keeps_tokens for kind in kinds) else unaligned),
    }


def deit_augmentation() -> dict[str, Any]:
    """DeiT's augmentation (arXiv 2012.12877, table 9), without mixup and cutmix."""
    return {
        "augment": "resized_crop",
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "repeats": 3,
    }


def _deit_imagenet(size: str) -> Recipe:
    """DeiT on ImageNet; the data is in `data.root` or ADACOMCAT_IMAGENET."""
    data = {
        "name": "imagefolder",
        "root": os.environ.get(IMAGENET_VARIABLE),
        "image_size": 224,
        "search_images": 50_000,
        "val_fraction": 0.01,
        **deit_augmentation(),
    }
    return Recipe(
        name=f"deit_{size}_imagenet",
        description=f"DeiT-{size.capitalize()} on ImageNet, the published recipe",
        settings={
            "data": data,
            "runtime": {"num_workers": 8},
            "model": {
                "name": f"deit_{size}_patch16_224.fb_in1k",
                "options": {"drop_path_rate": 0.1},
            },
            "dense": {"weights": "timm", "recipe": {"epochs": 0}},
            "method": {"name": "lowrank", "space": "paper", **PRETRAINED},
            **imagenet_recipe(base=size == "base"),
        },
    )


def _upstream_of(recipe: Recipe) -> Recipe:
    return Recipe(
        name=f"{recipe.name}_upstream",
        description=f"{recipe.description}, searched on the test images as its authors did",
        settings=reference(recipe.settings),
    )


def _cifar(classes: int) -> Recipe:
    """CIFAR, with a ViT of 64 tokens trained from random weights.

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
                "name": f"timm/torch/cifar{classes}",
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
