import json
import random
from typing import Any

import pytest

from adacomcat.schedule import Adaptive, Schedule, build_schedule
from experiments.dp_coefficients import experiment
from experiments.workloads import workloads
from study.spec.expand import arm_specs, expand, suggested_arm
from study.spec.exploration import Exploration
from study.spec.schema import Experiment, Workload
from study.spec.space import quasi_random

WORKLOADS = {workload.name: workload for workload in workloads()}


def exploration(made: Experiment) -> Exploration:
    assert made.exploration is not None
    return made.exploration


def searches(config: dict[str, Any], epochs: int, seed: int) -> list[int]:
    """Epochs of the searches when plans change at random."""
    schedule: Schedule = build_schedule(config)
    draw = random.Random(seed)
    found: list[int] = []
    for epoch in range(epochs):
        distance = draw.choice((0.0, 0.02, 0.05))
        if schedule.due(epoch):
            schedule.observe(epoch, distance if found else None)
            found.append(epoch)
    return found


@pytest.mark.parametrize("workload", workloads(), ids=lambda workload: workload.name)
def test_twenty_four_arms_and_three_rungs_on_every_workload(workload: Workload) -> None:
    made = experiment(workload)
    specs = expand(made)
    assert [spec.arm for spec in specs] == ["published", "fixed_1", "once"] * 2
    explored = exploration(made)
    assert len(made.arms) + explored.samples == 24
    assert explored.stopping is not None and len(explored.stopping.rungs) == 3
    config = specs[0].trial_config()
    assert explored.stopping.rungs[-1] < config.search_phase.epochs + config.finetune.epochs


def test_rungs_and_bounds_follow_from_the_epochs() -> None:
    made = exploration(experiment(WORKLOADS["digits"]))
    assert made.stopping is not None and made.stopping.rungs == (6, 10, 14)
    bounds = {d.name: (d.low, d.high) for d in made.space if d.kind != "choice"}
    assert bounds["max_interval"] == (2, 20) and bounds["warmup"] == (1, 5)
    longer = WORKLOADS["digits"].model_copy(
        update={"defaults": WORKLOADS["digits"].defaults | {"search_phase": {"epochs": 100}}}
    )
    bounds = {d.name: d.high for d in exploration(experiment(longer)).space}
    assert bounds["max_interval"] == 100 and bounds["growth"] == 10


@pytest.mark.parametrize("name", ["published", "fixed_1"])
def test_a_reference_is_where_its_point_is(name: str) -> None:
    """The arm and the point of the space that stands for it search at the same epochs."""
    made = experiment(WORKLOADS["digits"])
    reference = next(spec for spec in expand(made) if spec.arm == name)
    point = suggested_arm(made, exploration(made).points[name])
    twin = arm_specs(made, point)[0]
    rest = [{k: v for k, v in s.config.items() if k != "schedule"} for s in (reference, twin)]
    assert rest[0] == rest[1]
    counts = []
    for seed in range(20):
        epochs = [searches(s.config["schedule"], 20, seed) for s in (reference, twin)]
        assert epochs[0] == epochs[1]
        counts.append(len(epochs[0]))
    assert set(counts) == {19} if name == "fixed_1" else min(counts) < 10


def test_the_published_coefficients_are_the_defaults() -> None:
    made = experiment(WORKLOADS["digits"])
    point = suggested_arm(made, exploration(made).points["published"])
    schedule = build_schedule(arm_specs(made, point)[0].config["schedule"])
    assert schedule.config() == Adaptive().config()


def test_the_clock_of_the_references_is_the_workloads() -> None:
    upstream = WORKLOADS["synthetic"].model_copy(
        update={"defaults": WORKLOADS["synthetic"].defaults | {"search.clock": "per_search"}}
    )
    made = experiment(upstream)
    assert exploration(made).points["published"]["clock"] == "per_search"
    assert expand(made)[0].config["search"]["clock"] == "per_search"


@pytest.mark.parametrize("epochs", [1, 2, 3, 20])
def test_every_point_makes_a_schedule_and_every_coefficient_is_reached(epochs: int) -> None:
    workload = WORKLOADS["digits"]
    defaults = {**workload.defaults, "search_phase": {"epochs": epochs}}
    made = experiment(workload.model_copy(update={"defaults": defaults}))
    seen: dict[str, set[str]] = {}
    for params in quasi_random(exploration(made).space, 32, seed=0):
        config = arm_specs(made, suggested_arm(made, params))[0].config
        schedule = build_schedule(config["schedule"])
        for name, value in {**schedule.config(), "clock": config["search"]["clock"]}.items():
            seen.setdefault(name, set()).add(json.dumps(value))
    assert seen["kind"] == {'"adaptive"'}
    assert all(len(values) >= 2 for name, values in seen.items() if name != "kind")
    assert {'"reset"'} < seen["shrink"] and {"null"} < seen["max_interval"]


def test_three_objectives_are_allowed() -> None:
    explored = exploration(experiment(WORKLOADS["digits"]))
    values = explored.model_dump() | {"objectives": ("val_acc", "searches", "params")}
    assert Exploration(**values).objectives[2] == "params"
