import pytest

from adacomcat.data import build_splits
from adacomcat.interop.timm import create_model
from adacomcat.method import build_method
from adacomcat.settings import build_config
from experiments.adaptive_vs_fixed import experiment
from experiments.workloads import workloads
from study.body import check_buildable
from study.expand import expand
from study.schema import Workload

ALL = {workload.name: workload for workload in workloads()}


@pytest.mark.parametrize("workload", ALL.values(), ids=ALL)
def test_a_workload_is_a_sound_configuration(workload: Workload) -> None:
    config = build_config(workload.defaults)
    assert config.data.name == workload.name
    assert "\n" not in workload.description and workload.description
    # The dense model has nobody to learn from.
    assert config.dense.recipe.distill.kind == "none"
    assert config.dense.recipe.distill.align_blocks == ()


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_every_arm_can_be_built_on_embedded_data(name: str) -> None:
    check_buildable([spec.trial_config() for spec in expand(experiment(ALL[name], 1))])


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_the_candidates_are_centred_on_the_budget(name: str) -> None:
    """Before any training the mixture is uniform: a little within the budget, so no penalty."""
    config = build_config(ALL[name].defaults)
    splits = build_splits(config.data)
    model = create_model(
        config.model,
        num_classes=splits.num_classes,
        in_chans=splits.in_chans,
        image_size=splits.image_size,
    )
    method = build_method(model, config.method)
    budget = method.budget(config.budget)
    method.sample_(1.0, None)
    assert 0.8 * budget.target < method.expected_cost(budget.unit).item() < budget.target
