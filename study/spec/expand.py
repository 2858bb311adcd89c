"""Expansion of an experiment into its trials."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from adacomcat.checks import require, require_known
from adacomcat.config import TrialConfig
from adacomcat.overrides import RESOLVED, build_config, dotted_keys
from adacomcat.schedule import schedule_kind
from study.spec import space
from study.spec.exploration import Dimension, Exploration
from study.spec.resolve import RESOLVERS
from study.spec.schema import Arm, Experiment, TrialSpec, levels, make_trial_id

PROBES = 16
"""Points of a space that are built, to refuse an impossible one before any trial starts."""


def arm_configs(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The configuration of every arm, as JSON, but for the seed.

    The layers are the defaults of `TrialConfig`, the workload, the arm.

    Returns:
        name of the arm -> configuration.

    Raises:
        ValueError: an unknown key, a refused value, an arm that sets the seed, or a rung that its
            trials would never reach.
    """
    return {arm.name: _arm_config(experiment, arm) for arm in experiment.arms}


def as_json(config: TrialConfig) -> dict[str, Any]:
    """A configuration as a file gives it back: with lists where the object has tuples."""
    values: dict[str, Any] = json.loads(json.dumps(config.to_json()))
    return values


def expand(experiment: Experiment) -> list[TrialSpec]:
    """The trials of an experiment: seed by seed, arm by arm, so that early results compare.

    Of an exploration these are the references; what it suggests is made by `suggested_arm`.

    Raises:
        ValueError: as `arm_configs`, two arms whose trials would be the same, or a space with a
            point that makes no trial.
    """
    configs = arm_configs(experiment)
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
            made[name] = _spec(experiment, arm, seed, configs[name], needs)
        specs += [made[arm.name] for arm in experiment.arms]
    _refuse_duplicates(specs)
    if experiment.exploration is not None:
        _probe(experiment, experiment.exploration)
    return specs


def suggested_arm(experiment: Experiment, params: Mapping[str, Any]) -> Arm:
    """The arm that a point of the space makes.

    It is named by the hash of its overrides, so that an equal suggestion is the same arm and has
    the same trials.

    Args:
        experiment: an exploration.
        params: name of a parameter -> value; those that do not exist at this point are left out.
    """
    exploration = experiment.exploration
    assert exploration is not None
    typed = _typed(exploration, params)
    overrides = {**exploration.overrides, **space.settings(exploration.space, typed)}
    text = json.dumps(_whole(overrides), sort_keys=True, separators=(",", ":"), allow_nan=False)
    name = f"c_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Arm(name=name, label=_label(exploration, typed), overrides=overrides)


def arm_specs(experiment: Experiment, arm: Arm) -> list[TrialSpec]:
    """The trials of one arm that needs no other, one a seed.

    Raises:
        ValueError: a setting that the configuration refuses.
    """
    assert not arm.needs, arm.name
    config = _arm_config(experiment, arm)
    return [_spec(experiment, arm, seed, config, {}) for seed in experiment.seeds]


def apply_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """Fold the settings of a command line into an experiment.

    A setting holds for every arm, and goes into the workload, whose defaults are spelled out on the
    way. But a coefficient of a schedule (`schedule.growth`) holds for the arms whose kind of
    schedule has it, and goes into what they override.

    Args:
        experiment: what is asked.
        settings: dotted key -> value, as `adacomcat.overrides.parse_settings` reads them.

    Raises:
        ValueError: an unknown key, a refused value, a setting that an arm fixes or the space
            searches, or a coefficient that no arm's schedule has.
    """
    _refuse_fixed(experiment, settings)
    coefficient = {k: k.startswith("schedule.") and k != "schedule.kind" for k in settings}
    shared = {key: value for key, value in settings.items() if not coefficient[key]}
    own = {key: value for key, value in settings.items() if coefficient[key]}
    defaults = as_json(build_config(experiment.workload.defaults, shared))
    defaults.pop("seed")
    arms, known = [], set()
    for arm in experiment.arms:
        names = _coefficients(defaults, arm.overrides)
        known |= names
        arms.append(arm.model_copy(update={"overrides": _laid_over(arm.overrides, own, names)}))
    exploration = experiment.exploration
    if exploration is not None:
        names = _coefficients(defaults, exploration.overrides)
        known |= names
        overrides = _laid_over(exploration.overrides, own, names)
        exploration = exploration.model_copy(update={"overrides": overrides})
    for key in own:
        require_known(key, known, key)
    workload = experiment.workload.model_copy(update={"defaults": defaults})
    changes = {"workload": workload, "arms": tuple(arms), "exploration": exploration}
    folded = experiment.model_copy(update=changes)
    arm_configs(folded)
    return folded


def _arm_config(experiment: Experiment, arm: Arm) -> dict[str, Any]:
    layers = {
        "workload.defaults": experiment.workload.defaults,
        f"arms.{arm.name}.overrides": arm.overrides,
    }
    for name, layer in layers.items():
        require("seed" not in dotted_keys(layer), f"{name}.seed", layer, "seeds of the experiment")
    config = build_config(*layers.values())
    stopping = experiment.exploration.stopping if experiment.exploration else None
    if stopping is not None:
        epochs = config.search_phase.epochs + config.finetune.epochs
        allowed = f"below {epochs}, the epochs of a trial of {arm.name} (or --no-stopping)"
        below = stopping.rungs[-1] < epochs
        require(below, "exploration.stopping.rungs", stopping.rungs, allowed)
    return as_json(config)


def _spec(
    experiment: Experiment, arm: Arm, seed: int, values: Mapping[str, Any], needs: dict[str, str]
) -> TrialSpec:
    workload, config = experiment.workload.name, {**values, "seed": seed}
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


def _probe(experiment: Experiment, exploration: Exploration) -> None:
    """Build the points that are known and some that are spread over the space."""
    spread = space.quasi_random(exploration.space, PROBES, exploration.seed)
    for params in [*exploration.points.values(), *spread]:
        try:
            _arm_config(experiment, suggested_arm(experiment, params))
        except ValueError as error:
            raise ValueError(f"exploration.space: {error} (at {dict(params)})") from None


def _typed(exploration: Exploration, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in the order and the types of the space, so that 2 and 2.0 are the same."""
    typed: dict[str, Any] = {}
    for dimension in exploration.space:
        if dimension.name in params:
            typed[dimension.name] = _cast(dimension, params[dimension.name])
    assert len(typed) == len(params), (params, typed)
    return typed


def _cast(dimension: Dimension, value: Any) -> Any:
    if dimension.kind == "choice":
        return dimension.choices[dimension.choices.index(value)]
    return int(value) if dimension.kind == "int" else float(value)


def _whole(value: Any) -> Any:
    """The same data with 2 for 2.0, for a hash that does not depend on how a file wrote it."""
    if isinstance(value, Mapping):
        return {key: _whole(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _label(exploration: Exploration, params: Mapping[str, Any]) -> str:
    """The parameters in words, without the switches that another one follows from."""
    implied = {name for d in exploration.space if d.name in params for name in d.when}
    settings = {dimension.name for dimension in exploration.space if dimension.setting}
    told = (name for name in params if name in settings or name not in implied)
    return ", ".join(_word(name, params[name]) for name in told)


def _word(name: str, value: Any) -> str:
    """A choice that is a word says enough by itself."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"


def _laid_over(
    overrides: Mapping[str, Any], settings: Mapping[str, Any], names: set[str]
) -> dict[str, Any]:
    return {**overrides, **{key: value for key, value in settings.items() if key in names}}


def _refuse_fixed(experiment: Experiment, settings: Mapping[str, Any]) -> None:
    """Refuse settings that arms fix; seeds have a flag of their own."""
    exploration = experiment.exploration
    for key, value in settings.items():
        require(key != "seed", key, value, "--seeds N, which gives every arm the same seeds")
        fixed = [arm.name for arm in experiment.arms if _fixes(arm.overrides, key, value)]
        made = [d.setting for d in exploration.space if d.setting] if exploration else []
        searched = [name for name in made if _fixes({name: None}, key, value)]
        reason = ""
        if exploration and _fixes(exploration.overrides, key, value):
            reason = "fixes it in the arms that it suggests"
        if fixed:
            reason = f"fixes it in its arms {', '.join(fixed)}"
        if searched:
            reason = f"searches {', '.join(searched)}"
        allowed = f"no --set, since the experiment {experiment.name!r} {reason}"
        require(not reason, key, value, f"{allowed}; edit a copy of its study.yaml (--config)")


def _fixes(overrides: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether a setting overlaps with overrides."""
    fixed = set(dotted_keys(overrides))
    for name, entries in overrides.items():
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


def _coefficients(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> set[str]:
    """The coefficients of an arm's kind of schedule; none before it is resolved."""
    kind = build_config(defaults, overrides).schedule.get("kind")
    if kind == RESOLVED:
        return set()
    return {f"schedule.{name}" for name in schedule_kind(kind).field_names()}


def _refuse_duplicates(specs: list[TrialSpec]) -> None:
    seen: dict[str, str] = {}
    for spec in specs:
        # Arms that wait may differ in nothing but what makes their settings.
        content = make_trial_id("", spec.resolver or "", spec.seed, spec.config, spec.needs)
        other = seen.setdefault(content, spec.arm)
        require(other == spec.arm, "arms", f"{other}, {spec.arm}", "arms that differ in settings")
