import math

import pytest

from adacomcat.methods.base import Method
from adacomcat.methods.registry import build_method
from adacomcat.models.registry import create_model
from adacomcat.overrides import build_config, dotted_keys
from experiments.methods_compared import PATCHES, REDUCTIONS, experiment
from experiments.workloads import workloads
from study.spec.catalog import load_experiment
from study.spec.expand import arm_configs, expand

WORKLOADS = {workload.name: workload for workload in workloads()}
IMAGES = {"digits": (1, 8, 10), "fashion_mnist": (1, 28, 10), "cifar10": (3, 32, 10)}
"""Channels, side, classes."""
METHODS = {
    "lowrank": "lowrank",
    "uniform": "diffrate",
    "diffrate": "diffrate",
    "both": "lowrank+diffrate",
}


def bound(workload: str, arm: str) -> tuple[Method, object]:
    config = build_config(arm_configs(experiment(WORKLOADS[workload], 1))[arm])
    channels, side, classes = IMAGES[workload]
    model = create_model(config.model, num_classes=classes, in_chans=channels, image_size=side)
    return build_method(model, config.method), config.budget


def test_four_methods_at_every_budget() -> None:
    specs = expand(experiment(WORKLOADS["fashion_mnist"]))
    assert len(specs) == 3 * len(METHODS) * len(REDUCTIONS)
    for spec in specs:
        name, percent = spec.arm.rsplit("_", 1)
        assert spec.config["method"]["name"] == METHODS[name]
        assert spec.config["budget"] == {
            "unit": "macs",
            "reduction": int(percent) / 100,
            "absolute": None,
            "latency": {},
        }
        kind = "never" if name == "uniform" else "adaptive"
        assert spec.config["schedule"] == {"kind": kind}


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10", "deit_small_imagenet"])
def test_nothing_but_the_method_and_its_search_tells_the_arms_of_a_budget_apart(name: str) -> None:
    configs = arm_configs(experiment(WORKLOADS[name], 1))
    for reduction in REDUCTIONS:
        of_budget = [c for arm, c in configs.items() if arm.endswith(f"_{100 * reduction:.0f}")]
        first, *others = of_budget
        changed = {
            key
            for other in others
            for key in dotted_keys(first)
            if _at(first, key) != _at(other, key)
        }
        assert changed == {"method", "schedule", "search.weight_decay", "search.min_lr"}
        for phase in ("search_phase", "finetune"):
            # Of the teacher a compressed model has the labels alone: its tokens are others.
            assert first[phase]["distill"]["kind"] == "hard"
            assert first[phase]["distill"]["align_blocks"] == []


@pytest.mark.parametrize("name", PATCHES)
def test_the_small_workloads_have_tokens_to_drop(name: str) -> None:
    for config in arm_configs(experiment(WORKLOADS[name], 1)).values():
        side = IMAGES[name][1] // config["model"]["options"]["patch_size"]
        assert side**2 >= 49
    with pytest.raises(ValueError, match="fixes it in its arms lowrank_30"):
        load_experiment("methods_compared", name, 1, {"model.options.patch_size": 2})


@pytest.mark.parametrize("name", IMAGES)
def test_every_method_meets_every_budget(name: str) -> None:
    for arm in arm_configs(experiment(WORKLOADS[name], 1)):
        method, asked = bound(name, arm)
        budget = method.budget(asked)
        share = method.plan_cost(method.default_plan(budget), "macs") / budget.target
        assert 0.97 < share <= 1, (arm, share)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ranks_are_on_both_sides_of_the_budget(name: str, reduction: float) -> None:
    method, asked = bound(name, f"lowrank_{round(100 * reduction)}")
    budget = method.budget(asked)
    costs = [[site.cost("macs", c.rank) for c in site.candidates] for site in method.sites]
    cheapest, dearest = (sum(map(pick, costs)) for pick in (min, max))
    assert cheapest < budget.target < dearest


def test_the_ranks_of_both_save_half_of_it() -> None:
    configs = arm_configs(experiment(WORKLOADS["digits"], 1))
    alone, together = (configs[arm]["method"] for arm in ("lowrank_50", "both_50"))
    ratio = together["lowrank"]["fractions"][0] / alone["fractions"][0]
    assert ratio == pytest.approx(math.sqrt(0.5) / 0.5, rel=1e-3)
    assert together["lowrank"]["keep_dense"] == alone["keep_dense"] == ["head"]


def test_menus_stay_as_they_are() -> None:
    configs = arm_configs(experiment(WORKLOADS["deit_small_imagenet"], 1))
    for arm, config in configs.items():
        if arm.startswith("lowrank"):
            assert config["method"] == {"name": "lowrank", "space": "paper", "metrics": "gradients"}
        if arm.startswith("both"):
            assert config["method"]["lowrank"] == {"space": "paper", "metrics": "gradients"}


def _at(values: object, key: str) -> object:
    for part in key.split("."):
        assert isinstance(values, dict)
        values = values[part]
    return values
