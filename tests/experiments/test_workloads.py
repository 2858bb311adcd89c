import pytest
import torch

from adacomcat.config import TrialConfig
from adacomcat.data import build_splits
from adacomcat.methods.base import Method
from adacomcat.methods.registry import build_method
from adacomcat.models.registry import create_model
from adacomcat.overrides import build_config, dotted_keys
from adacomcat.recipes import recipes
from experiments.adaptive_vs_fixed import experiment
from experiments.workloads import workloads
from study.refusals import check_buildable
from study.spec.expand import expand
from study.spec.schema import Workload

ALL = {workload.name: workload for workload in workloads()}
SIZES = {"cifar10": (10, 32), "cifar100": (100, 32)} | {
    name: (1000, 224) for name in ALL if "imagenet" in name
}
"""Workload -> classes and side of its images, where the images are not on this machine."""


@pytest.mark.parametrize("workload", ALL.values(), ids=ALL)
def test_a_workload_is_a_sound_configuration(workload: Workload) -> None:
    config = build_config(workload.defaults)
    assert "\n" not in workload.description and workload.description
    # The dense model has nobody to learn from.
    assert config.dense.recipe.distill.kind == "none"
    assert config.dense.recipe.distill.align_blocks == ()
    # Something makes the dense model, and never both: given weights are not trained further.
    assert (config.dense.weights is None) == (config.dense.recipe.epochs > 0)


def test_every_recipe_is_a_workload_and_the_first_needs_no_download() -> None:
    assert list(ALL) == [recipe.name for recipe in recipes()]
    assert list(ALL)[0] == "digits"


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_every_arm_can_be_built_on_embedded_data(name: str) -> None:
    check_buildable([spec.trial_config() for spec in expand(experiment(ALL[name], 1))])


def bound(config: TrialConfig, classes: int, side: int) -> Method:
    channels = 3 if config.data.name not in ("digits", "fashion_mnist") else 1
    sizes = {"num_classes": classes, "in_chans": channels, "image_size": side}
    return build_method(create_model(config.model, **sizes), config.method)


@pytest.mark.parametrize("name", ["digits", "synthetic", "cifar10", "cifar100"])
def test_the_candidates_are_centered_on_the_budget(name: str) -> None:
    """Before any training the mixture is uniform: a little within the budget, so no penalty."""
    config = build_config(ALL[name].defaults)
    if name in SIZES:
        classes, side = SIZES[name]
    else:
        splits = build_splits(config.data)
        classes, side = splits.num_classes, splits.image_size
    method = bound(config, classes, side)
    budget = method.budget(config.budget)
    method.sample_(1.0, None)
    assert 0.8 * budget.target < method.expected_cost(budget.unit).item() < budget.target


def test_deit_small_has_the_published_target() -> None:
    config = build_config(ALL["deit_small_imagenet"].defaults)
    with torch.device("meta"):
        method = bound(config, *SIZES["deit_small_imagenet"])
    assert method.budget(config.budget).target == 10_661_376


@pytest.mark.parametrize("name", ["deit_tiny_imagenet", "deit_base_imagenet"])
def test_the_published_menus_reach_the_budget(name: str) -> None:
    for variant in (name, f"{name}_upstream"):
        config = build_config(ALL[variant].defaults)
        with torch.device("meta"):
            method = bound(config, *SIZES[variant])
        assert method.default_plan(method.budget(config.budget))


def test_the_published_recipes() -> None:
    """The numbers of the commands that the authors published."""
    small, base = (build_config(ALL[f"deit_{s}_imagenet"].defaults) for s in ("small", "base"))
    assert (small.search_phase.batch_size, base.search_phase.batch_size) == (512, 320)
    assert (small.search.batch_size, base.search.batch_size) == (64, 16)
    assert (small.budget.reduction, base.budget.reduction) == (0.5, 0.6)
    assert (small.finetune.min_lr, base.finetune.min_lr) == (5e-6, 1e-6)
    for config in (small, base):
        assert config.data.leakage == ()
        assert config.search_phase.epochs == 30
        assert config.search.beta == 1.5
        assert (config.search_phase.lr, config.finetune.lr) == (5e-4, 1e-4)
        assert (config.search_phase.weight_decay, config.finetune.weight_decay) == (0.05, 5e-3)
        for phase in (config.search_phase, config.finetune):
            assert (phase.mixup, phase.cutmix, phase.label_smoothing) == (0.8, 1.0, 0.1)
            assert phase.distill.kind == "hard"
            assert phase.distill.align_blocks == (0, 1, -2, -1)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_the_upstream_preset_changes_the_confounds_and_nothing_else(size: str) -> None:
    plain = build_config(ALL[f"deit_{size}_imagenet"].defaults).to_json()
    upstream = build_config(ALL[f"deit_{size}_imagenet_upstream"].defaults)
    assert upstream.data.leakage == ("search", "selection")
    changed = {key for key in dotted_keys(plain) if _at(plain, key) != _at(upstream.to_json(), key)}
    assert changed == {
        "data.search_from",
        "data.search_fraction",
        "data.search_images",
        "data.val_from",
        "data.val_fraction",
        "search.clock",
        "search.decision",
        "search_phase.optimizer_state",
        "search_phase.distill.align_schedule",
        "finetune.distill.align_schedule",
        "method",
    }
    method = {"space": "paper", "allow_larger": True, "source": "current", "biases": "drop"}
    method["metrics"] = "plain"
    assert upstream.method == {"name": "lowrank", **method}


def test_imagenet_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADACOMCAT_IMAGENET", "/somewhere")
    found = {workload.name: build_config(workload.defaults).data.root for workload in workloads()}
    assert {root for name, root in found.items() if "imagenet" in name} == {"/somewhere"}
    assert {root for name, root in found.items() if "imagenet" not in name} == {None}


def _at(values: object, key: str) -> object:
    for part in key.split("."):
        assert isinstance(values, dict)
        values = values[part]
    return values
