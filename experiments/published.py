"""What did the published run do? Its log as a study of its own: read, not run.

DeiT-Small on ImageNet, 30 epochs of the adaptive schedule, one seed, searched and selected on the
images that it reports on. Its figures stand beside those of any other study.
"""

from adacomcat.checks import require
from study.spec.schema import Arm, Experiment, Workload

WORKLOAD = "deit_small_imagenet_upstream"
"""The only one: what was published is of nothing else."""


def experiment(workload: Workload, seeds: int = 1) -> Experiment:
    """The one arm that was published.

    Args:
        workload: `deit_small_imagenet_upstream`.
        seeds: 1.

    Raises:
        ValueError: more seeds.
    """
    require(seeds == 1, "--seeds", seeds, "1: no other run was published")
    return Experiment(
        name="published",
        question="What did the published run do?",
        workload=workload,
        arms=(
            Arm(
                name="adaptive",
                label="adaptive (published)",
                overrides={"schedule": {"kind": "adaptive"}, "finetune.epochs": 0},
            ),
        ),
        seeds=(0,),
        figures=("fig_intervals", "fig_ranks", "fig_time"),
        stored="published_deit_small",
    )
