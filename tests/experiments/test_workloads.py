import pytest

from experiments.adaptive_vs_fixed import experiment
from experiments.workloads import workloads
from study.expand import expand
from study.overrides import build_config
from study.schema import Workload
from study.trial import check_buildable

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


def test_the_search_phase_has_the_published_length() -> None:
    for name in ("digits", "fashion_mnist"):
        assert build_config(ALL[name].defaults).search_phase.epochs == 30
