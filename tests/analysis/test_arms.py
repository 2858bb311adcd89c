import pytest

from analysis import arms
from experiments.budget_sweep import experiment as budget_sweep
from experiments.methods_compared import experiment as methods_compared
from experiments.schedule_ablation import experiment as schedule_ablation
from experiments.source_and_annealing import CHOICES
from experiments.source_and_annealing import experiment as source_and_annealing
from experiments.workloads import workloads

DIGITS = next(workload for workload in workloads() if workload.name == "digits")


def names(experiment):
    return [arm.name for arm in experiment(DIGITS).arms]


def test_budgets_are_no_part_of_a_series():
    sweep = names(budget_sweep)
    assert arms.series("adaptive_50", sweep) == ("adaptive", 50)
    assert arms.series("fixed_1_30", sweep) == ("fixed_1", 30)
    for name in ("fixed_1", "fixed_8", "random_2"):
        assert arms.series(name, ["never", "fixed_1", "fixed_8", "random_2"]) == (name, None)


def test_arms_are_compared_within_their_budget():
    sweep = names(budget_sweep)
    assert arms.references("adaptive_50", sweep) == {"fixed_1_50": "fixed_1", "never_50": "never"}
    assert arms.references("never_80", sweep) == {"fixed_1_80": "fixed_1"}


def test_methods_are_compared_with_one_another_and_with_uniform_rates():
    study = methods_compared(DIGITS)
    methods = names(methods_compared)
    of_arm = {arm.name: arm.overrides["method"]["name"] for arm in study.arms}
    assert arms.series("uniform_30", methods) == ("uniform", 30)
    assert arms.references("lowrank_30", methods, of_arm) == {"uniform_30": "uniform"}
    assert arms.references("diffrate_30", methods, of_arm) == {
        "uniform_30": "uniform",
        "lowrank_30": "lowrank",
    }
    assert arms.references("both_50", methods, of_arm) == {
        "uniform_50": "uniform",
        "lowrank_50": "lowrank",
        "diffrate_50": "diffrate",
    }
    assert arms.references("uniform_50", methods, of_arm) == {}


def test_a_method_that_nobody_has_heard_of_is_compared_like_the_others():
    known = {"fixed_1": "lowrank", "adaptive": "lowrank", "brand_new": "sparse", "other": None}
    found = arms.references("brand_new", list(known), known)
    assert found == {"fixed_1": "fixed_1", "adaptive": "adaptive"}
    assert arms.references("adaptive", list(known), known) == {"fixed_1": "fixed_1"}


def test_adaptive_is_compared_with_its_controls_and_draws_together():
    ablation = [*names(schedule_ablation), arms.POOLED]
    found = arms.references("adaptive", ablation)
    assert [found.pop(name) for name in ("fixed_1", "never")] == ["fixed_1", "never"]
    assert found == dict.fromkeys(arms.CONTROLS, "adaptive")
    assert arms.draws(ablation) == ["random_1", "random_2", "random_3"]
    assert arms.references("random_1", ablation) == {}
    assert list(arms.references("random", ablation)) == ["fixed_1", "never"]
    assert list(arms.references("random_1", names(schedule_ablation))) == ["fixed_1", "never"]


def test_a_choice_is_compared_with_its_end_and_the_ends_with_one_another():
    whole = names(source_and_annealing)
    assert len(arms.ends(whole)) == 2 * len(CHOICES)
    assert arms.ends(whole)["reference_but_search_split"] == ("reference", "search_split")
    assert arms.ends_of(whole) == ["ours", "reference"]
    assert arms.references("ours_but_source", whole) == {"ours": "ours"}
    assert arms.references("reference", whole) == {"ours": "ours"}


@pytest.mark.parametrize("alone", [["ours_but_source"], ["a", "b"], ["random_1", "never"]])
def test_names_without_their_counterpart_mean_nothing(alone):
    assert arms.ends(alone) == {} and arms.ends_of(alone) == [] and arms.draws(alone) == []
