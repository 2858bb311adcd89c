from experiments.schedule_ablation import experiment
from experiments.workloads import workloads
from study.spec.expand import RESOLVED, expand

WORKLOADS = {workload.name: workload for workload in workloads()}
CONTROLS = ["even", "front", "random_1", "random_2", "random_3", "oracle"]


def test_every_control_matches_the_adaptive_trial_of_its_seed() -> None:
    specs = expand(experiment(WORKLOADS["synthetic"]))
    assert len(specs) == 60
    by_id = {spec.trial_id: spec for spec in specs}
    controls = [spec for spec in specs if spec.config["schedule"]["kind"] == RESOLVED]
    assert [spec.arm for spec in controls] == CONTROLS * 5
    for spec in controls:
        matched = by_id[spec.needs["count"]]
        assert (matched.arm, matched.seed) == ("adaptive", spec.seed)


def test_the_oracle_sees_the_plans_of_the_trial_that_always_searched() -> None:
    specs = expand(experiment(WORKLOADS["synthetic"], 1))
    by_id = {spec.trial_id: spec for spec in specs}
    (oracle,) = (spec for spec in specs if spec.arm == "oracle")
    assert by_id[oracle.needs["plans"]].arm == "fixed_1"


def test_the_draws_are_trials_of_their_own() -> None:
    specs = expand(experiment(WORKLOADS["synthetic"], 2))
    assert len({spec.trial_id for spec in specs}) == len(specs) == 24


def test_the_arms_differ_in_nothing_but_the_schedule() -> None:
    specs = [s for s in expand(experiment(WORKLOADS["synthetic"], 2)) if s.arm != "sensitivity"]
    rests = [{k: v for k, v in s.config.items() if k not in ("schedule", "seed")} for s in specs]
    assert all(rest == rests[0] for rest in rests)
