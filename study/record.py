"""Content of `study.json`."""

from collections.abc import Mapping
from typing import Any

from adacomcat.io.run import SCHEMA_VERSION
from study.spec.expand import arm_configs
from study.spec.schema import Experiment


def study_record(experiment: Experiment) -> dict[str, Any]:
    """The content of `study.json`, but for when the study was started and by which command.

    Raises:
        ValueError: a setting that the configuration of an arm refuses.
    """
    configs = arm_configs(experiment)
    arms = [
        {
            "name": arm.name,
            "label": arm.label,
            "schedule": configs[arm.name]["schedule"],
            "needs": {need.role: need.arm for need in arm.needs},
            "config": {k: v for k, v in configs[arm.name].items() if k != "seed"},
        }
        for arm in experiment.arms
    ]
    exploration = experiment.exploration
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment.name,
        "question": experiment.question,
        "workload": experiment.workload.name,
        "figures": list(experiment.figures),
        "arms": arms,
        "seeds": list(experiment.seeds),
        "exploration": exploration.to_json() if exploration else None,
    }


def extent(study: Mapping[str, Any]) -> dict[str, Any]:
    """Size of a study: names of its arms, its seeds, and how many arms it suggests."""
    return {
        "arms": sorted(arm["name"] for arm in study["arms"]),
        "seeds": sorted(study["seeds"]),
        "samples": (study.get("exploration") or {"samples": 0})["samples"],
    }


def union(before: Mapping[str, Any], experiment: Experiment) -> Experiment:
    """The experiment with the seeds and samples that are there already."""
    seeds = tuple(sorted({*before["seeds"], *experiment.seeds}))
    exploration = experiment.exploration
    if exploration is not None:
        samples = max(extent(before)["samples"], exploration.samples)
        exploration = exploration.model_copy(update={"samples": samples})
    return experiment.model_copy(update={"seeds": seeds, "exploration": exploration})
