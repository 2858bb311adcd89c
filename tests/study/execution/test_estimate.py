from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adacomcat.config import TrialConfig
from study.execution import estimate
from study.execution.body import prepare_dense, untrained
from study.execution.placement import Placement
from study.spec.expand import apply_settings, expand
from study.spec.schema import Arm, Experiment, Workload

ONE = Placement("tune", 1, 1.0, 0.0, 1)


def make(workload: Workload, seeds: int = 1, **arms: dict[str, Any]) -> Experiment:
    return Experiment(
        name="priced",
        question="?",
        workload=workload,
        arms=tuple(Arm(name=n, label=n, overrides={"schedule": s}) for n, s in arms.items()),
        seeds=tuple(range(seeds)),
    )


@pytest.fixture
def config(tiny_workload: Workload) -> TrialConfig:
    experiment = make(tiny_workload, each={"kind": "fixed"})
    # A model of its own, which no other test has put into the cache.
    return expand(apply_settings(experiment, {"dense.recipe.lr": 0.00123}))[0].trial_config()


class Clocked:
    """An engine that takes seconds known beforehand."""

    def __init__(self, config: TrialConfig, *, splits: Any, reporter: Any, **_: Any) -> None:
        self.config, self.splits, self.reporter = config, splits, reporter

    def run(self) -> None:
        assert self.config.schedule == {"kind": "explicit", "epochs": [1]}
        for train_s in (99.0, 0.5, 0.25):
            clocks = {"search_s": 2.0, "rebuild_s": 3.0, "eval_s": 0.125}
            self.reporter.epoch({"train_s": train_s, **clocks})


def test_the_time_of_a_trial_is_that_of_its_steps_scaled_to_the_splits(
    config: TrialConfig, dense_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = untrained(config).splits
    images = len(splits.train) / (4 * 16)
    monkeypatch.setattr(estimate, "Trial", Clocked)
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    # Three epochs of the search phase, with a search in all but the first, and one of finetuning.
    # The search split has fewer batches than are timed; the validation split is evaluated whole.
    assert len(splits.search) // 16 < 4 and len(splits.val) < 512
    searching, work = 2 * 2.0, (3 * 0.5 + 0.25) * images + 4 * 0.125
    trial_s, dense_s = estimate.measure(config, ONE)
    assert trial_s == pytest.approx(2 * 3.0 + searching + work)
    assert dense_s == pytest.approx(0.5 * images + 0.125)
    # Two workers share the images, but not the rebuilding.
    halved, _ = estimate.measure(config, replace(ONE, workers=2))
    assert halved == pytest.approx(2 * 3.0 + (searching + work) / 2)
    # A dense model that is there takes no time.
    prepare_dense(config, dense_cache, "cpu", None)
    assert estimate.measure(config, ONE)[1] == 0.0


def test_a_real_engine_can_be_timed(config: TrialConfig) -> None:
    trial_s, _ = estimate.measure(config, ONE)
    assert trial_s > 0


@pytest.mark.parametrize(
    ("concurrent", "expected"), [(1, "1:02:20"), (3, "0:22:20"), (99, "0:12:20")]
)
def test_every_trial_is_taken_for_the_most_expensive_one(
    concurrent: int, expected: str, tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make(
        tiny_workload,
        seeds=2,
        once={"kind": "once"},
        # Its plans may change at every search, and it searches then as often as it can.
        adaptive={"kind": "adaptive"},
        rarely={"kind": "fixed", "every": 2},
    )
    measured: list[TrialConfig] = []

    def measure(config: TrialConfig, placement: Placement) -> tuple[float, float]:
        measured.append(config)
        return 600.0, 140.0

    monkeypatch.setattr(estimate, "measure", measure)
    text = estimate.estimate(experiment, replace(ONE, concurrent=concurrent))
    assert text == (
        f"estimate: at most about {expected}, if each of 6 trials takes as long as one of "
        "'adaptive': 0:10:00; training the dense model: 0:02:20"
    )
    assert [config.schedule["kind"] for config in measured] == ["adaptive"]


def test_an_exploration_counts_what_it_will_suggest(
    exploration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "measure", lambda *_: (60.0, 0.0))
    assert "each of 16 trials" in estimate.estimate(exploration(samples=6, seeds=(0, 1)), ONE)
