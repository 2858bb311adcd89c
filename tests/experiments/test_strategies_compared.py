from experiments.strategies_compared import REDUCTIONS, STRATEGIES, experiment
from experiments.workloads import workloads
from study.spec.expand import expand

WORKLOADS = {workload.name: workload for workload in workloads()}


def test_the_arms_differ_in_strategy_metrics_and_budget_alone() -> None:
    specs = expand(experiment(WORKLOADS["digits"], 1))
    assert len(specs) == len(REDUCTIONS) * sum(map(len, STRATEGIES.values())) == 39
    rests = []
    for spec in specs:
        rest = {key: value for key, value in spec.config.items() if key not in ("seed", "budget")}
        rest["search"] = {k: v for k, v in rest["search"].items() if k != "strategy"}
        rest["method"] = {k: v for k, v in rest["method"].items() if k != "metrics"}
        rests.append(rest)
    assert all(rest == rests[0] for rest in rests)
    seen = {
        (c["search"]["strategy"], c["method"]["metrics"], c["budget"]["reduction"])
        for c in (spec.config for spec in specs)
    }
    assert len(seen) == len(specs)


def test_nothing_is_trained_before_the_only_search() -> None:
    for spec in expand(experiment(WORKLOADS["digits"], 1)):
        config = spec.config
        assert config["schedule"] == {"kind": "explicit", "epochs": [0]}
        assert (config["search_phase"]["epochs"], config["search_phase"]["frozen"]) == (1, True)
        assert config["method"]["space"] == "fine"
