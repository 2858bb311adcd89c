from adacomcat.schedule import build_schedule
from experiments.adaptive_vs_fixed import experiment
from experiments.workloads import workloads
from study.spec.expand import expand

WORKLOADS = {workload.name: workload for workload in workloads()}

EPOCHS = 30


def due_epochs(config: dict[str, object]) -> list[int]:
    """The epochs at which a schedule searches when the plan never changes after the first."""
    schedule = build_schedule(config)
    found: list[int] = []
    for epoch in range(EPOCHS):
        if schedule.due(epoch):
            schedule.observe(epoch, None if not found else 0.0)
            found.append(epoch)
    return found


def test_the_arms_search_as_often_as_their_names_say() -> None:
    specs = expand(experiment(WORKLOADS["synthetic"], 1))
    schedules = {spec.arm: spec.config["schedule"] for spec in specs}
    assert list(schedules) == [
        "never",
        "once",
        "sensitivity",
        "fixed_8",
        "fixed_4",
        "fixed_2",
        "fixed_1",
        "adaptive",
        "oracle",
    ]
    searches = {arm: len(due_epochs(s)) for arm, s in schedules.items() if arm != "oracle"}
    assert searches == {
        "never": 0,
        "once": 1,
        "sensitivity": 1,
        "fixed_8": 4,
        "fixed_4": 8,
        "fixed_2": 15,
        "fixed_1": 29,
        "adaptive": 5,
    }


def test_the_adaptive_arm_has_the_published_coefficients() -> None:
    spec = next(s for s in expand(experiment(WORKLOADS["synthetic"], 1)) if s.arm == "adaptive")
    coefficients = build_schedule(spec.config["schedule"]).config()
    published = {"growth": 2.0, "shrink": "reset", "tolerance": 0.0, "max_interval": None}
    assert coefficients | published == coefficients


def test_the_arms_differ_in_nothing_but_the_schedule() -> None:
    specs = expand(experiment(WORKLOADS["synthetic"], 2))
    rests = {
        spec.trial_id: {k: v for k, v in spec.config.items() if k not in ("schedule", "seed")}
        for spec in specs
    }
    first, *others = (rest for name, rest in rests.items() if "sensitivity" not in name)
    assert all(rest == first for rest in others)
    for rest in (rest for name, rest in rests.items() if "sensitivity" in name):
        strategy = {**first["search"], "strategy": "sensitivity"}
        assert rest["search"] == strategy != first["search"]
        assert rest["method"] == {**first["method"], "metrics": "gradients"}
        assert {**rest, "search": first["search"], "method": first["method"]} == first


def test_the_oracle_needs_the_trial_that_always_searched_and_the_adaptive_one() -> None:
    specs = expand(experiment(WORKLOADS["synthetic"], 3))
    assert len(specs) == 27
    by_id = {spec.trial_id: spec for spec in specs}
    oracles = [spec for spec in specs if spec.arm == "oracle"]
    assert [spec.seed for spec in oracles] == [0, 1, 2]
    for spec in oracles:
        needed = {role: by_id[i] for role, i in spec.needs.items()}
        assert {r: (s.arm, s.seed) for r, s in needed.items()} == {
            "plans": ("fixed_1", spec.seed),
            "count": ("adaptive", spec.seed),
        }


def test_the_labels_differ() -> None:
    labels = [arm.label for arm in experiment(WORKLOADS["synthetic"]).arms]
    assert len(set(labels)) == len(labels) == 9
