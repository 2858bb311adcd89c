from typing import Any

import pytest

from study.expand import arm_configs, expand
from study.schema import Arm, Experiment, Need, Workload

WORKLOAD = Workload(name="w", description="", defaults={"search_phase": {"epochs": 7}})


def experiment(**schedules: dict[str, Any]) -> Experiment:
    arms = [Arm(name=n, label=n, overrides={"schedule": s}) for n, s in schedules.items()]
    return Experiment(
        name="e", question="?", workload=WORKLOAD, arms=tuple(arms), seeds=(0, 1)
    )  # fmt: skip


TWO = experiment(once={"kind": "once", "at": 2}, adaptive={"kind": "adaptive"})


def with_needs() -> Experiment:
    best = Arm(
        name="best", label="best", overrides={"schedule": {"kind": "resolved"}},
        needs=(Need(arm="adaptive", role="count"), Need(arm="once", role="plans")),
        resolver="oracle_schedule",
    )  # fmt: skip
    # First in the list though last to run: the order of arms is the author's.
    return TWO.model_copy(update={"arms": (best, *TWO.arms)})


def test_every_arm_with_every_seed_in_order() -> None:
    specs = expand(TWO)
    assert [(s.seed, s.arm) for s in specs] == [
        (0, "once"), (0, "adaptive"), (1, "once"), (1, "adaptive"),
    ]  # fmt: skip
    assert len({s.trial_id for s in specs}) == 4
    for spec in specs:
        assert spec.trial_id.startswith(f"w-{spec.arm}-s{spec.seed}-")
        assert spec.config["search_phase"]["epochs"] == 7
        assert spec.config["seed"] == spec.seed
    assert [s.config["schedule"]["kind"] for s in specs[:2]] == ["once", "adaptive"]


def test_the_same_experiment_gives_the_same_trials_and_settings_other_ones() -> None:
    def ids(settings: dict[str, Any]) -> list[str]:
        return [spec.trial_id for spec in expand(TWO, settings)]

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
        return next(s.trial_id for s in expand(with_needs(), settings) if s.arm == "best")

    assert best({}) != best({"schedule.growth": 3.0})


def test_a_coefficient_holds_for_the_arms_whose_schedule_has_it() -> None:
    configs = arm_configs(with_needs(), {"schedule.growth": 3})
    assert configs["adaptive"]["schedule"] == {"kind": "adaptive", "growth": 3}
    assert configs["once"]["schedule"] == {"kind": "once", "at": 2}
    assert configs["best"]["schedule"] == {"kind": "resolved"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule.kind": "never"}, r"schedule.kind: got 'never', allowed: no --set.*once, adapt"),
        ({"schedule": {"kind": "never"}}, r"schedule: got .*fixes it in its arms once, adaptive"),
        ({"schedule.at": 3}, r"schedule.at: got 3, allowed: no --set.*in its arms once$"),
        ({"schedule.growht": 3}, r"schedule.growht: .*did you mean 'schedule.growth'"),
        ({"schedule.growth": 0.5}, r"schedule.growth: got 0.5"),
        ({"seed": 3}, r"seed: got 3, allowed: --seeds N"),
        ({"search_phase.epohcs": 3}, r"search_phase.epohcs: .*did you mean 'epochs'"),
    ],
)
def test_a_setting_that_cannot_hold_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(TWO, settings)


def test_a_setting_that_arms_fix_by_a_dotted_key_is_refused() -> None:
    arms = [
        Arm(name=f"b{b}", label="b", overrides={"budget": {"reduction": b / 10}}) for b in (3, 5)
    ]
    budgets = TWO.model_copy(update={"arms": tuple(arms)})
    for settings in ({"budget.reduction": 0.2}, {"budget": {"reduction": 0.2}}):
        with pytest.raises(ValueError, match="fixes it in its arms b3, b5"):
            expand(budgets, settings)
    # What the arms leave open can be set, the kind of schedule too.
    configs = arm_configs(budgets, {"schedule.kind": "fixed", "schedule.every": 4, "search.lr": 1})
    assert configs["b3"]["schedule"] == {"kind": "fixed", "every": 4}


def test_arms_that_would_run_the_same_trial_are_refused() -> None:
    with pytest.raises(ValueError, match="arms: got 'a, b', allowed: arms that differ"):
        expand(experiment(a={"kind": "once"}, b={"kind": "once"}))


def test_an_unknown_resolver_is_refused() -> None:
    wrong = with_needs().arms[0].model_copy(update={"resolver": "oracle_shedule"})
    asked = TWO.model_copy(update={"arms": (wrong, *TWO.arms)})
    with pytest.raises(ValueError, match=r"arms\.best\.resolver: .*did you mean 'oracle_schedule'"):
        expand(asked)
