import pytest

from adacomcat.config import leakage_note
from experiments.published import WORKLOAD, experiment
from experiments.workloads import workloads
from study.spec.catalog import load_experiment
from study.spec.expand import expand

WORKLOADS = {workload.name: workload for workload in workloads()}


def test_the_settings_are_the_published_ones() -> None:
    (spec,) = expand(experiment(WORKLOADS[WORKLOAD]))
    config = spec.trial_config()
    assert (config.search_phase.epochs, config.finetune.epochs) == (30, 0)
    assert config.search_phase.batch_size == 512
    assert config.budget.reduction == 0.5
    assert config.schedule["kind"] == "adaptive"
    assert spec.leakage == ("search", "selection")
    assert leakage_note(spec.leakage)


def test_its_workload_is_the_default_and_no_other_is_allowed() -> None:
    assert load_experiment("published", None, None).workload.name == WORKLOAD
    with pytest.raises(ValueError, match=f"--workload: got 'digits', allowed: {WORKLOAD}"):
        load_experiment("published", "digits", None)


def test_no_other_seed_and_no_other_setting_was_published() -> None:
    with pytest.raises(ValueError, match=r"--seeds: got 2, allowed: 1: no other run was published"):
        load_experiment("published", None, 2)
    with pytest.raises(ValueError, match=r"search.beta: got 2, allowed: no --set.* stored trace"):
        load_experiment("published", None, None, {"search.beta": 2})
