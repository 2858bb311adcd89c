import pytest
import torch

from adacomcat.methods.registry import build_method
from adacomcat.models.registry import create_model
from adacomcat.overrides import build_config
from experiments.budget_sweep import REDUCTIONS, experiment
from experiments.workloads import workloads
from study.spec.expand import expand

WORKLOADS = {workload.name: workload for workload in workloads()}
IMAGES = {"digits": (1, 8), "fashion_mnist": (1, 28), "synthetic": (3, 16)}
"""Channels and side."""


def test_three_schedules_at_every_reduction() -> None:
    specs = expand(experiment(WORKLOADS["synthetic"]))
    assert len(specs) == 6 * 3 * 5
    for spec in specs:
        name, percent = spec.arm.rsplit("_", 1)
        assert spec.config["budget"]["reduction"] == int(percent) / 100
        assert spec.config["schedule"]["kind"] == {"fixed_1": "fixed"}.get(name, name)
    assert {spec.config["budget"]["reduction"] for spec in specs} == set(REDUCTIONS)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_budget_is_met_between_candidates_on_both_sides(name: str, reduction: float) -> None:
    """Else the search would have no choice, or no plan would do."""
    channels, side = IMAGES[name]
    arm = f"adaptive_{round(100 * reduction)}"
    (values,) = (s.config for s in expand(experiment(WORKLOADS[name], 1)) if s.arm == arm)
    config = build_config(values)
    with torch.device("meta"):
        model = create_model(config.model, num_classes=10, in_chans=channels, image_size=side)
    method = build_method(model, config.method)
    searched, fixed = method.dense_cost("params")
    costs = [[site.cost("params", c.rank) for c in site.candidates] for site in method.sites]
    cheapest, dearest = (sum(map(pick, costs)) + fixed for pick in (min, max))
    assert cheapest < (1 - reduction) * (searched + fixed) < dearest


def test_menus_stay_as_they_are() -> None:
    workload = next(w for w in workloads() if w.name == "deit_small_imagenet")
    methods = [spec.config["method"] for spec in expand(experiment(workload, 1))]
    assert methods == [workload.defaults["method"]] * len(methods)
