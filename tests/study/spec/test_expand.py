from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.spec.expand import apply_settings, arm_configs, arm_specs, expand, suggested_arm
from study.spec.exploration import Dimension, Exploration, Stopping
from study.spec.schema import Arm, Experiment, Need, Workload

WORKLOAD = Workload(name="w", description="", defaults={"search_phase": {"epochs": 7}})


def experiment(**schedules: dict[str, Any]) -> Experiment:
    arms = [Arm(name=n, label=n, overrides={"schedule": s}) for n, s in schedules.items()]
    return Experiment(name="e", question="?", workload=WORKLOAD, arms=tuple(arms), seeds=(0, 1))


TWO = experiment(once={"kind": "once", "at": 2}, adaptive={"kind": "adaptive"})


def with_needs() -> Experiment:
    best = Arm(
        name="best",
        label="best",
        overrides={"schedule": {"kind": "resolved"}},
        needs=(Need(arm="adaptive", role="count"), Need(arm="once", role="plans")),
        resolver="oracle_schedule",
    )
    # First in the list though last to run: the order of arms is the author's.
    return TWO.model_copy(update={"arms": (best, *TWO.arms)})


def test_every_arm_with_every_seed_in_order() -> None:
    specs = expand(TWO)
    assert [(s.seed, s.arm) for s in specs] == [
        (0, "once"),
        (0, "adaptive"),
        (1, "once"),
        (1, "adaptive"),
    ]
    assert len({s.trial_id for s in specs}) == 4
    for spec in specs:
        assert spec.trial_id.startswith(f"w-{spec.arm}-s{spec.seed}-")
        assert spec.config["search_phase"]["epochs"] == 7
        assert spec.config["seed"] == spec.seed
    assert [s.config["schedule"]["kind"] for s in specs[:2]] == ["once", "adaptive"]


def test_the_same_experiment_gives_the_same_trials_and_settings_other_ones() -> None:
    def ids(settings: dict[str, Any]) -> list[str]:
        return [spec.trial_id for spec in expand(apply_settings(TWO, settings))]

    assert ids({}) == ids({}) == ids({"search_phase.epochs": 7})
    assert not set(ids({})) & set(ids({"search_phase.epochs": 8}))


def test_needs_point_to_trials_of_the_same_seed() -> None:
    specs = expand(with_needs())
    by_id = {s.trial_id: s for s in specs}
    assert [s.arm for s in specs[:3]] == ["best", "once", "adaptive"]
    for spec in specs:
        if spec.arm == "best":
            needed = {role: by_id[i] for role, i in spec.needs.items()}
            assert {r: (s.arm, s.seed) for r, s in needed.items()} == {
                "count": ("adaptive", spec.seed),
                "plans": ("once", spec.seed),
            }


def test_a_trial_is_another_one_when_what_it_needs_is() -> None:
    def best(settings: dict[str, Any]) -> str:
        specs = expand(apply_settings(with_needs(), settings))
        return next(s.trial_id for s in specs if s.arm == "best")

    assert best({}) != best({"schedule.growth": 3.0})


def test_a_coefficient_holds_for_the_arms_whose_schedule_has_it() -> None:
    configs = arm_configs(apply_settings(with_needs(), {"schedule.growth": 3}))
    assert configs["adaptive"]["schedule"] == {"kind": "adaptive", "growth": 3}
    assert configs["once"]["schedule"] == {"kind": "once", "at": 2}
    assert configs["best"]["schedule"] == {"kind": "resolved"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule.kind": "never"}, r"schedule.kind: got 'never', allowed: no --set.*once, adapt"),
        ({"schedule": {"kind": "never"}}, r"schedule: got .*fixes it in its arms once, adaptive"),
        (
            {"schedule.at": 3},
            r"schedule.at: got 3, allowed: no --set.*arms once; edit a copy",
        ),
        ({"schedule.growht": 3}, r"schedule.growht: .*did you mean 'schedule.growth'"),
        ({"schedule.growth": 0.5}, r"schedule.growth: got 0.5"),
        ({"seed": 3}, r"seed: got 3, allowed: --seeds N"),
        ({"search_phase.epohcs": 3}, r"search_phase.epohcs: .*did you mean 'epochs'"),
    ],
)
def test_a_setting_that_cannot_hold_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_settings(TWO, settings)


def test_a_setting_that_arms_fix_by_a_dotted_key_is_refused() -> None:
    arms = [
        Arm(name=f"b{b}", label="b", overrides={"budget": {"reduction": b / 10}}) for b in (3, 5)
    ]
    budgets = TWO.model_copy(update={"arms": tuple(arms)})
    for settings in ({"budget.reduction": 0.2}, {"budget": {"reduction": 0.2}}):
        with pytest.raises(ValueError, match="fixes it in its arms b3, b5"):
            apply_settings(budgets, settings)
    # What the arms leave open can be set, the kind of schedule too.
    settings = {"schedule.kind": "fixed", "schedule.every": 4, "search.lr": 1}
    configs = arm_configs(apply_settings(budgets, settings))
    assert configs["b3"]["schedule"] == {"kind": "fixed", "every": 4}


def test_arms_that_would_run_the_same_trial_are_refused() -> None:
    with pytest.raises(ValueError, match="arms: got 'a, b', allowed: arms that differ"):
        expand(experiment(a={"kind": "once"}, b={"kind": "once"}))


def test_an_unknown_resolver_is_refused() -> None:
    wrong = with_needs().arms[0].model_copy(update={"resolver": "oracle_shedule"})
    asked = TWO.model_copy(update={"arms": (wrong, *TWO.arms)})
    with pytest.raises(ValueError, match=r"arms\.best\.resolver: .*did you mean 'oracle_schedule'"):
        expand(asked)


def test_settings_fold_into_the_experiment_and_nothing_else_changes() -> None:
    folded = apply_settings(with_needs(), {"search_phase.epochs": 9, "schedule.growth": 3})
    assert folded.workload.defaults["search_phase"]["epochs"] == 9
    # Spelled out, but for the seed, which is the trial's.
    assert folded.workload.defaults["finetune"]["epochs"] == 10
    assert "seed" not in folded.workload.defaults
    before = arm_configs(with_needs())
    for name, config in arm_configs(folded).items():
        rest = {k: v for k, v in config.items() if k not in ("search_phase", "schedule")}
        assert rest.items() <= before[name].items()
        assert config["search_phase"] == before[name]["search_phase"] | {"epochs": 9}
    with pytest.raises(ValueError, match=r"schedule\.growth: got 4, .*fixes it in its arms adapt"):
        apply_settings(folded, {"schedule.growth": 4})


@pytest.mark.parametrize("place", ["workload.defaults", "arms.once.overrides"])
def test_a_seed_among_the_settings_is_refused(place: str) -> None:
    workload, arm = TWO.workload, TWO.arms[0]
    if place == "workload.defaults":
        workload = workload.model_copy(update={"defaults": {"seed": 3}})
    else:
        arm = arm.model_copy(update={"overrides": {**arm.overrides, "seed": 3}})
    asked = TWO.model_copy(update={"workload": workload, "arms": (arm, TWO.arms[1])})
    with pytest.raises(ValueError, match=rf"^{place}\.seed: got .*allowed: seeds of"):
        expand(asked)


SPACE = (
    Dimension(name="growth", setting="schedule.growth", kind="float", low=1.0, high=4.0),
    Dimension(name="shrinks", kind="choice", choices=("reset", "divide")),
    Dimension(
        name="shrink",
        setting="schedule.shrink",
        kind="float",
        low=1.5,
        high=8,
        log=True,
        when={"shrinks": "divide"},
    ),
    Dimension(name="warmup", setting="schedule.warmup", kind="int", low=1, high=3),
    Dimension(name="cap", setting="schedule.max_interval", kind="choice", choices=(None, 4)),
    Dimension(name="due", setting="schedule.due", kind="choice", choices=("modulo", "elapsed")),
)


def exploring(**changes: Any) -> Experiment:
    """Two references and a space; `changes` are fields of the exploration."""
    asked: dict[str, Any] = {
        "space": SPACE,
        "objectives": ("val_acc", "searches"),
        "samples": 4,
        "overrides": {"schedule": {"kind": "adaptive"}},
        "stopping": Stopping(rungs=(3, 16)),
    }
    values = {name: getattr(TWO, name) for name in type(TWO).model_fields}
    published = Arm(
        name="published",
        label="published",
        overrides={"schedule": {"kind": "adaptive", "growth": 2.0}, "search.clock": "per_search"},
    )
    return Experiment(
        **values
        | {"arms": (published, TWO.arms[0]), "exploration": Exploration(**(asked | changes))}
    )


POINT = {
    "growth": 2.3149,
    "shrinks": "divide",
    "shrink": 2.0,
    "warmup": 1,
    "cap": None,
    "due": "elapsed",
}


def test_a_point_of_the_space_is_an_arm_with_a_trial_a_seed() -> None:
    experiment = exploring()
    arm = suggested_arm(experiment, POINT)
    assert arm.label == "growth 2.31, shrink 2, warmup 1, no cap, elapsed"
    other = {"growth": 3.0, "shrinks": "reset", "warmup": 2, "cap": 4, "due": "modulo"}
    label = suggested_arm(experiment, other).label
    assert label == "growth 3, reset, warmup 2, cap 4, modulo"
    first, second = arm_specs(experiment, arm)
    assert (first.seed, second.seed) == (0, 1)
    assert first.trial_id.startswith(f"w-{arm.name}-s0-")
    assert first.config["schedule"] == {
        "kind": "adaptive",
        "growth": 2.3149,
        "shrink": 2.0,
        "warmup": 1,
        "max_interval": None,
        "due": "elapsed",
    }
    # Beforehand the references are all there is.
    assert [s.arm for s in expand(experiment)] == ["published", "once"] * 2


number = st.one_of(st.integers(1, 4), st.floats(1, 4))


@given(growth=number, shrink=number)
def test_an_arm_is_its_content_however_its_numbers_are_written(growth: Any, shrink: Any) -> None:
    experiment = exploring()
    point = POINT | {"growth": growth, "shrink": shrink}
    other = {k: float(v) if k in ("growth", "shrink") else v for k, v in point.items()}
    arm, again = (suggested_arm(experiment, p) for p in (point, dict(reversed(other.items()))))
    assert arm == again
    changed = suggested_arm(experiment, point | {"growth": float(growth) + 0.5})
    assert changed.name != arm.name
    # A file may have 0 for 0.0 in what all suggestions share.
    shared = {"schedule": {"kind": "adaptive", "tolerance": 0}}
    floats = {"schedule": {"kind": "adaptive", "tolerance": 0.0}}
    names = [suggested_arm(exploring(overrides=o), point).name for o in (shared, floats)]
    assert names[0] == names[1] != arm.name


def test_a_suggestion_is_refused_like_any_other_arm() -> None:
    experiment = exploring()
    arm = suggested_arm(experiment, POINT | {"growth": 0.5})
    with pytest.raises(ValueError, match=r"schedule\.growth: got 0\.5, allowed: 1 or more"):
        arm_specs(experiment, arm)


def test_an_impossible_space_is_refused_before_anything_runs() -> None:
    low = SPACE[0].model_copy(update={"low": 0.25})
    with pytest.raises(ValueError, match=r"exploration\.space: schedule\.growth: got 0\."):
        expand(exploring(space=(low, *SPACE[1:])))
    strange = SPACE[0].model_copy(update={"setting": "serach.lr"})
    with pytest.raises(ValueError, match=r"exploration\.space: serach: .*did you mean 'search'"):
        expand(exploring(space=(strange,)))


def test_rungs_lie_within_the_trials() -> None:
    # 7 epochs of search and 10 of finetuning.
    expand(exploring(stopping=Stopping(rungs=(3, 16))))
    with pytest.raises(ValueError, match=r"exploration\.stopping\.rungs: got \(3, 17\).*below 17"):
        expand(exploring(stopping=Stopping(rungs=(3, 17))))
    # Also where the space decides how long a trial is.
    length = Dimension(name="n", setting="finetune.epochs", kind="int", low=1, high=12)
    with pytest.raises(ValueError, match=r"exploration\.stopping\.rungs: got \(3, 16\)"):
        expand(exploring(space=(*SPACE, length)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule.due": "modulo"}, r"schedule.due: got 'modulo'.* searches schedule.due"),
        ({"schedule.shrink": 3}, r"schedule.shrink: got 3, .* searches schedule.shrink"),
        ({"schedule": {"kind": "once"}}, r"schedule: got .* searches schedule.growth"),
        ({"search.clock": "per_epoch"}, r"search.clock: .* fixes it in its arms published"),
        ({"schedule.kind": "once"}, r"schedule.kind: got 'once', .*in its arms published, once"),
        ({"schedule.every": 2}, r"schedule.every: got 'schedule.every'"),
    ],
)
def test_what_a_reference_fixes_or_the_space_searches_cannot_be_set(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        apply_settings(exploring(), settings)


def test_what_only_the_suggested_arms_fix_cannot_be_set() -> None:
    experiment = exploring(overrides={"schedule": {"kind": "adaptive"}, "search.beta": 2.0})
    with pytest.raises(ValueError, match="search.beta: .*fixes it in the arms that it suggests"):
        apply_settings(experiment, {"search.beta": 1.0})


def test_a_coefficient_outside_the_space_holds_for_suggestions_too() -> None:
    experiment = apply_settings(exploring(), {"schedule.tolerance": 0.05, "search.lr": 0.5})
    arm = suggested_arm(experiment, POINT)
    assert arm.overrides["schedule.tolerance"] == 0.05
    specs = [*arm_specs(experiment, arm), *expand(experiment)]
    assert {spec.config["search"]["lr"] for spec in specs} == {0.5}
    tolerances = {spec.arm: spec.config["schedule"].get("tolerance") for spec in specs}
    assert tolerances == {arm.name: 0.05, "published": 0.05, "once": None}
