from typing import Any

import pytest

from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.recipe import reference as upstream
from adacomcat.overrides import build_config, differences
from adacomcat.recipes import recipes
from experiments.source_and_annealing import CHOICES, experiment
from experiments.workloads import workloads
from study.spec.expand import expand
from study.spec.schema import TrialSpec, Workload

WORKLOADS = {workload.name: workload for workload in workloads()}


def arms(workload: str = "synthetic") -> dict[str, TrialSpec]:
    return {spec.arm: spec for spec in expand(experiment(WORKLOADS[workload], 1))}


def test_each_arm_is_an_end_with_one_choice_of_the_other() -> None:
    specs = arms()
    assert len(specs) == 2 + 2 * len(CHOICES) == 14
    for end, other in (("ours", "reference"), ("reference", "ours")):
        whole = differences(specs[end].config, specs[other].config)
        assert len(whole) == len(CHOICES)
        for choice in CHOICES:
            changed = differences(specs[end].config, specs[f"{end}_but_{choice}"].config)
            assert len(changed) == 1
            assert changed[0] in whole


def test_the_end_that_is_ours_is_the_workload_but_for_the_method() -> None:
    """The default method is the published one; what a search truncates is ours by choice only."""
    default = build_config(
        WORKLOADS["digits"].defaults,
        {"schedule": {"kind": "adaptive"}, "method.source": "dense", "method.metrics": "inputs"},
    ).to_json()
    config = arms("digits")["ours"].trial_config().to_json()
    methods = [LowRankConfig(**without_name(c.pop("method"))) for c in (config, default)]
    assert methods[0] == methods[1]
    assert config == default


def test_the_other_end_is_what_the_preset_of_the_reference_says() -> None:
    settings = next(recipe for recipe in recipes() if recipe.name == "digits").settings
    preset = build_config(upstream(settings)).to_json()
    # It says nothing of truncation: the reference's is the default.
    preset["method"].setdefault("metrics", LowRankConfig().metrics)
    reference = arms("digits")["reference"].trial_config().to_json()
    for path, _, _ in CHOICES.values():
        section, name = path.split(".")
        assert reference[section][name] == preset[section][name]


def without_name(method: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in method.items() if key != "name"}


@pytest.mark.parametrize("choice", CHOICES)
def test_only_the_search_split_leaks(choice: str) -> None:
    specs = arms()
    assert specs["ours"].leakage == ()
    assert specs["reference"].leakage == ("search",)
    leaks = choice == "search_split"
    assert specs[f"ours_but_{choice}"].leakage == (("search",) if leaks else ())
    assert specs[f"reference_but_{choice}"].leakage == (() if leaks else ("search",))


@pytest.mark.parametrize("workload", workloads(), ids=lambda workload: workload.name)
def test_it_is_asked_of_the_workloads_that_are_not_the_reference_already(
    workload: Workload,
) -> None:
    if workload.name.endswith("_upstream"):
        with pytest.raises(ValueError, match=r"--workload: got '.*_upstream', allowed: one that"):
            experiment(workload, 1)
    else:
        assert len(expand(experiment(workload, 1))) == 14
