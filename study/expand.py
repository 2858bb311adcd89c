"""From an experiment to its trials: pure, in a stable order."""

import json
from collections.abc import Mapping
from typing import Any

from adacomcat.checks import require, require_known
from adacomcat.config import TrialConfig
from adacomcat.schedule import Schedule, build_schedule
from adacomcat.schedule.base import coefficients
from study.overrides import build_config, dotted_keys
from study.resolve import RESOLVERS
from study.schema import Arm, Experiment, TrialSpec, levels, make_trial_id

RESOLVED = "resolved"
"""`schedule.kind` of an arm until its resolver has made its schedule."""


def arm_configs(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration of every arm, as JSON, but for the seed.

    The layers are the defaults of `TrialConfig`, the workload, the arm, `settings`. A setting holds
    for every arm, but for a coefficient of a schedule (`schedule.growth`): it holds for the arms
    whose kind of schedule has it.

    Args:
        experiment: what to expand.
        settings: dotted key -> value, as the command line gives them.

    Returns:
        name of the arm -> configuration.

    Raises:
        ValueError: an unknown key, a refused value, a setting that an arm fixes, or a coefficient
            that no arm's schedule has.
    """
    _refuse_fixed(experiment, settings)
    shared: dict[str, Any] = {}
    schedule: dict[str, Any] = {}
    for key, value in settings.items():
        coefficient = key.startswith("schedule.") and key != "schedule.kind"
        (schedule if coefficient else shared)[key] = value
    configs = {}
    unused = dict(schedule)
    known: set[str] = set()
    for arm in experiment.arms:
        layers = (experiment.workload.defaults, arm.overrides, shared)
        names = {f"schedule.{name}" for name in _coefficients(build_config(*layers).schedule)}
        known |= names
        own = {key: value for key, value in schedule.items() if key in names}
        unused = {key: value for key, value in unused.items() if key not in names}
        config = build_config(*layers, own)
        if config.schedule.get("kind") != RESOLVED:
            build_schedule(config.schedule)
        configs[arm.name] = as_json(config)
    for key in unused:
        require_known(key, known, key)
    return configs


def as_json(config: TrialConfig) -> dict[str, Any]:
    """A configuration as a file gives it back: with lists where the object has tuples."""
    values: dict[str, Any] = json.loads(json.dumps(config.to_json()))
    return values


def expand(experiment: Experiment, settings: Mapping[str, Any] | None = None) -> list[TrialSpec]:
    """The trials of an experiment: seed by seed, arm by arm, so that early results compare.

    Raises:
        ValueError: as `arm_configs`, or two arms whose trials would be the same.
    """
    configs = arm_configs(experiment, settings or {})
    by_name = {arm.name: arm for arm in experiment.arms}
    order = levels({a.name: {n.arm for n in a.needs} for a in experiment.arms}, "arms")
    specs = []
    for seed in experiment.seeds:
        made: dict[str, TrialSpec] = {}
        for name in (name for wave in order for name in wave):
            arm = by_name[name]
            if arm.resolver is not None:
                require_known(arm.resolver, RESOLVERS, f"arms.{name}.resolver")
            needs = {need.role: made[need.arm].trial_id for need in arm.needs}
            made[name] = _spec(experiment, arm, seed, configs[name] | {"seed": seed}, needs)
        specs += [made[arm.name] for arm in experiment.arms]
    _refuse_duplicates(specs)
    return specs


def _spec(
    experiment: Experiment, arm: Arm, seed: int, config: dict[str, Any], needs: dict[str, str]
) -> TrialSpec:
    workload = experiment.workload.name
    return TrialSpec(
        trial_id=make_trial_id(workload, arm.name, seed, config, needs),
        experiment=experiment.name,
        workload=workload,
        arm=arm.name,
        label=arm.label,
        seed=seed,
        config=config,
        needs=needs,
        resolver=arm.resolver,
    )


def _refuse_fixed(experiment: Experiment, settings: Mapping[str, Any]) -> None:
    """A setting must not undo what tells the arms apart, and seeds have a flag of their own."""
    for key, value in settings.items():
        require(key != "seed", key, value, "--seeds N, which gives every arm the same seeds")
        fixed = [arm.name for arm in experiment.arms if _fixes(arm, key, value)]
        if fixed:
            raise ValueError(
                f"{key}: got {value!r}, allowed: no --set, since the experiment "
                f"{experiment.name!r} fixes it in its arms {', '.join(fixed)}"
            )


def _fixes(arm: Arm, key: str, value: Any) -> bool:
    """Whether a setting reaches into what the arm overrides."""
    fixed = set(dotted_keys(arm.overrides))
    for name, entries in arm.overrides.items():
        if name in fixed and isinstance(entries, Mapping):
            # The entries of a free mapping are fixed one by one, and so is the whole of it.
            fixed |= {f"{name}.{entry}" for entry in entries}
            fixed.discard(name)
    for asked in dotted_keys({key: value}):
        if any(f == asked or f.startswith(f"{asked}.") for f in fixed):
            return True
        if any(asked.startswith(f"{f}.") for f in fixed):
            return True
    return False


def _coefficients(schedule: Mapping[str, Any]) -> set[str]:
    """The names that the kind of a schedule knows; none while it waits for its resolver."""
    kinds = {kind.kind: kind for kind in Schedule.__subclasses__()}
    kind = schedule.get("kind")
    if kind == RESOLVED:
        return set()
    require_known(str(kind), kinds, "schedule.kind")
    return set(coefficients(kinds[str(kind)]))


def _refuse_duplicates(specs: list[TrialSpec]) -> None:
    seen: dict[str, str] = {}
    for spec in specs:
        content = make_trial_id("", "", spec.seed, spec.config, spec.needs)
        other = seen.setdefault(content, spec.arm)
        require(other == spec.arm, "arms", f"{other}, {spec.arm}", "arms that differ in settings")
