from typing import Any

import pytest
import torch

from adacomcat.methods.registry import build_method
from adacomcat.models.registry import create_model
from adacomcat.overrides import build_config
from experiments.budgets import experiment
from experiments.workloads import workloads
from study.refusals import check_buildable
from study.spec.expand import arm_specs, expand, suggested_arm
from study.spec.exploration import Exploration
from study.spec.schema import Experiment, Workload

WORKLOADS = {workload.name: workload for workload in workloads()}

SHAPES = {
    "digits": (10, 1, 8),
    "fashion_mnist": (10, 1, 28),
    "synthetic": (10, 3, 16),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
}
"""Classes, channels and side of the images; of the others those of ImageNet."""


def exploration(made: Experiment) -> Exploration:
    assert made.exploration is not None
    return made.exploration


def bounds(made: Experiment) -> tuple[float, float]:
    return next(d for d in exploration(made).space if d.name == "reduction").bounds


def test_the_references_meet_the_workloads_own_budget() -> None:
    made = experiment(WORKLOADS["digits"])
    specs = expand(made)
    assert [spec.arm for spec in specs] == ["recipe", "never"] * 2
    assert {spec.config["budget"]["reduction"] for spec in specs} == {0.87}
    assert [spec.config["schedule"]["kind"] for spec in specs[:2]] == ["adaptive", "never"]
    assert specs[0].config["search"]["beta"] == 1.5
    assert exploration(made).objectives == ("val_acc", "params")
    assert len(made.arms) + exploration(made).samples == 24


def test_the_recipe_is_where_its_point_is() -> None:
    made = experiment(WORKLOADS["digits"])
    point = suggested_arm(made, exploration(made).points["recipe"])
    assert arm_specs(made, point)[0].config == expand(made)[0].config


@pytest.mark.parametrize("workload", workloads(), ids=lambda workload: workload.name)
def test_every_reduction_in_the_range_is_reachable_and_binds(workload: Workload) -> None:
    """Between the plans of the dearest and of the cheapest candidates of every site."""
    config = build_config(workload.defaults)
    classes, channels, side = SHAPES.get(workload.name, (1000, 3, 224))
    with torch.device("meta"):
        model = create_model(config.model, num_classes=classes, in_chans=channels, image_size=side)
    method: Any = build_method(model, config.method)
    searched, fixed = method.dense_cost("params")
    cheapest = sum(
        min(site.cost("params", c.rank) for c in site.candidates) for site in method.sites
    )
    dearest = sum(
        max(site.cost("params", c.rank) for c in site.candidates) for site in method.sites
    )
    reachable = [1 - (cost + fixed) / (searched + fixed) for cost in (dearest, cheapest)]
    low, high = bounds(experiment(workload))
    assert reachable[0] < low < high < reachable[1]
    assert high - low > 0.5 * (reachable[1] - reachable[0])


def test_the_ends_of_the_range_can_be_built_and_what_is_beyond_is_refused() -> None:
    made = experiment(WORKLOADS["synthetic"])
    low, high = bounds(made)
    for reduction in (low, high):
        arm = suggested_arm(made, {"reduction": reduction, "beta": 1.0})
        check_buildable([arm_specs(made, arm)[0].trial_config()])
    beyond = suggested_arm(made, {"reduction": 0.95, "beta": 1.0})
    with pytest.raises(ValueError, match="budget.reduction: got 0.95"):
        check_buildable([arm_specs(made, beyond)[0].trial_config()])


def test_the_schedule_of_the_workload_holds_for_what_is_suggested() -> None:
    workload = WORKLOADS["digits"]
    defaults = {**workload.defaults, "schedule": {"kind": "fixed", "every": 4}}
    made = experiment(workload.model_copy(update={"defaults": defaults}))
    arm = suggested_arm(made, {"reduction": 0.85, "beta": 1.0})
    assert arm_specs(made, arm)[0].config["schedule"] == {"kind": "fixed", "every": 4}


def test_a_budget_in_macs_is_judged_by_macs_and_an_absolute_one_is_refused() -> None:
    workload = WORKLOADS["digits"]
    macs = {**workload.defaults, "budget": {"reduction": 0.5, "unit": "macs"}}
    made = experiment(workload.model_copy(update={"defaults": macs}))
    assert exploration(made).objectives == ("val_acc", "macs")
    absolute = {**workload.defaults, "budget": {"reduction": None, "absolute": 50_000.0}}
    with pytest.raises(ValueError, match="budget.reduction: got None"):
        experiment(workload.model_copy(update={"defaults": absolute}))
    timed = {**workload.defaults, "budget": {"unit": "latency", "latency": {"model_ns": 1}}}
    with pytest.raises(ValueError, match="budget.unit: got 'latency', allowed: params, macs"):
        experiment(workload.model_copy(update={"defaults": timed}))
