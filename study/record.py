"""The content of `study.json`, and what may change of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adacomcat.checks import require
from adacomcat.config.overrides import differences
from adacomcat.config.trial import identity
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
        "arms": arms,
        "seeds": list(experiment.seeds),
        "exploration": exploration.model_dump(mode="json") if exploration else None,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records of studies, but for what was only added."""

    def content(study: Mapping[str, Any]) -> dict[str, Any]:
        arms = {
            arm["name"]: {"needs": arm["needs"], **identity(arm["config"])} for arm in study["arms"]
        }
        exploration = study.get("exploration")  # Schema 1 had none.
        if exploration is not None:
            exploration = {k: v for k, v in exploration.items() if k != "samples"}
        names = {key: study[key] for key in ("experiment", "workload")}
        return {**names, "arms": arms, "exploration": exploration}

    there, asked = content(before), content(now)
    asked["arms"] = {name: arm for name, arm in asked["arms"].items() if name in there["arms"]}
    return differences(there, asked)


def refuse_growth(
    before: Mapping[str, Any], now: Mapping[str, Any], root: Path, extend: bool
) -> None:
    """Refuse what a study has not and cannot get, or only gets when asked to extend.

    Raises:
        ValueError: more arms, seeds or samples without `extend`; fewer seeds or other references of
            an exploration, whatever it is told.
    """
    there, asked = _extent(before), _extent(now)
    if now["exploration"] is not None:
        allowed = f"{there['arms']}, by which {root} compares the others"
        require(asked["arms"] == there["arms"], "arms", asked["arms"], allowed)
        allowed = f"{there['seeds']}, over which {root} takes means, or more of them"
        require(set(asked["seeds"]) >= set(there["seeds"]), "seeds", asked["seeds"], allowed)
    for key, value in asked.items():
        more = value > there[key] if key == "samples" else not set(value) <= set(there[key])
        allowed = f"{there[key]}, as in {root}; to add some: --resume {root} --extend"
        require(extend or not more, key, value, allowed)


def refusal(problem: str, way_out: str, changed: list[str]) -> str:
    """The message about a study whose settings changed."""
    shown = "\n  ".join(changed[:5])
    more = f"\n  and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"{problem} a study with other settings; {way_out}. There -> asked:\n  {shown}{more}"


def _extent(study: Mapping[str, Any]) -> dict[str, Any]:
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
        samples = max(_extent(before)["samples"], exploration.samples)
        exploration = exploration.model_copy(update={"samples": samples})
    return experiment.model_copy(update={"seeds": seeds, "exploration": exploration})
