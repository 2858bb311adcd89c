from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adacomcat.config import TrialConfig
from study.execution import estimate
from study.execution.body import prepare_dense, train_trial, untrained
from study.execution.cluster import Placement
from study.execution.estimate import (
    ArmPrice,
    Pricer,
    Span,
    count_searches,
    estimate_table,
    trial_seconds,
)
from study.execution.rates import Line, Rates, measure
from study.spec.expand import apply_settings, expand
from study.spec.exploration import Dimension, Exploration, Stopping
from study.spec.schema import Arm, Experiment, Need, Workload

ONE = Placement("tune", 1, 1.0, 0.0, 1)
# Every figure another, so that none can stand for another.
RATES = Rates(
    start=1000.0,
    train=Line(1.0, 0.1),
    finetune=Line(2.0, 0.01),
    search=Line(5.0, 0.5),
    rebuild=Line(7.0, 0.25),
    evaluate=Line(0.0, 0.001),
    rest=3.0,
)


class Rows:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self.searches: list[dict[str, Any]] = []

    def epoch(self, row: dict[str, Any]) -> None:
        self.epochs.append(row)

    def search(self, row: dict[str, Any]) -> None:
        self.searches.append(row)


def arm(name: str, **schedule: Any) -> Arm:
    return Arm(name=name, label=name, overrides={"schedule": schedule})


def make(workload: Workload, *arms: Arm, seeds: int = 1, **rest: Any) -> Experiment:
    return Experiment(
        name="priced", question="?", workload=workload, arms=arms, seeds=tuple(range(seeds)), **rest
    )


@pytest.fixture
def fixed_rates(monkeypatch: pytest.MonkeyPatch) -> list[TrialConfig]:
    """RATES in place of a measurement; the configurations that would have been measured."""
    asked: list[TrialConfig] = []

    def instead(config: TrialConfig, placement: Placement) -> tuple[Rates, Any]:
        asked.append(config)
        return RATES, untrained(config).splits

    monkeypatch.setattr(estimate, "measure", instead)
    return asked


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ({"kind": "never"}, 30, (0, 0)),
        ({"kind": "once"}, 30, (1, 1)),
        ({"kind": "fixed", "every": 4}, 20, (5, 5)),
        ({"kind": "explicit", "epochs": [0, 3, 40]}, 20, (2, 2)),
        # Plans that stand still: at 1, 2, 4, 8, 16. Plans that change: at each but epoch 0.
        ({"kind": "adaptive"}, 30, (5, 29)),
        # The second search, at 2, is the first that has a plan to compare with: 1, 2, 4, 8, 16.
        ({"kind": "adaptive", "due": "elapsed"}, 30, (5, 29)),
        ({"kind": "adaptive", "growth": 1.0, "warmup": 5}, 30, (25, 25)),
        ({"kind": "adaptive", "max_interval": 2}, 11, (6, 10)),
        # No distance between plans is above 1.
        ({"kind": "adaptive", "tolerance": 1.0}, 30, (5, 5)),
    ],
)
def test_searches_of_a_schedule(
    schedule: dict[str, Any], epochs: int, expected: tuple[int, int]
) -> None:
    span = count_searches(schedule, epochs)
    assert (span.low, span.high) == expected


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "never"},
        {"kind": "once", "at": 2},
        {"kind": "fixed", "every": 2},
        {"kind": "adaptive", "growth": 1.0},
        {"kind": "adaptive", "tolerance": 1.0},
    ],
    ids=lambda schedule: "-".join(map(str, schedule.values())),
)
def test_a_real_trial_searches_as_often_as_estimated(
    schedule: dict[str, Any], tiny_workload: Workload, tmp_path: Path, dense_cache: Path
) -> None:
    experiment = make(tiny_workload, arm("one", **schedule))
    experiment = apply_settings(experiment, {"search_phase.epochs": 6})
    config = expand(experiment)[0].trial_config()
    prepare_dense(config, dense_cache, "cpu", None)
    rows = Rows()
    outcome = train_trial(
        config, directory=tmp_path, reporter=rows, cache=dense_cache, device="cpu", until=None
    )
    assert outcome is not None
    span = count_searches(config.schedule, 6)
    assert span.low == span.high == outcome.summary["searches"] == len(rows.searches)


def test_measured_rates_are_those_of_the_engine(
    tiny_workload: Workload, tmp_path: Path, dense_cache: Path
) -> None:
    config = expand(make(tiny_workload, arm("each", kind="fixed")))[0].trial_config()
    rates, splits = measure(config, ONE)
    for name, value in asdict(rates).items():
        parts = value if isinstance(value, dict) else {"": value}
        assert all(part >= 0 for part in parts.values()), (name, value)
    for line in (rates.train, rates.finetune, rates.search, rates.evaluate):
        assert line.at(3) > line.at(1) > 0
    # Nothing was left out of the cut: the splits are the workload's.
    assert splits.hashes == untrained(config).splits.hashes
    whole = trial_seconds(config, splits, rates, 2, 1, 4)
    assert whole > trial_seconds(config, splits, rates, 1, 1, 4) > 0
    assert whole > trial_seconds(config, splits, rates, 2, 1, 3)


def test_measuring_keeps_no_logits_of_an_untrained_teacher(
    tiny_workload: Workload, dense_cache: Path
) -> None:
    kept = {"kind": "soft", "align_blocks": [], "cache": "estimated"}
    search = {"batch_size": 8, "images": 16, "stable_steps": 1}
    settings = {"search_phase.distill": kept, "search": search}
    experiment = apply_settings(make(tiny_workload, arm("each", kind="fixed")), settings)
    config = expand(experiment)[0].trial_config()
    rates, splits = measure(config, ONE)
    assert not (dense_cache / "estimated").exists()
    # Two steps of a search, all that its images allow of a pass of three.
    assert len(splits.search) // 8 == 3
    longer = replace(config, search=replace(config.search, images=None, steps=4))
    both = [trial_seconds(one, splits, rates, 1, 1, 4) for one in (config, longer)]
    assert both[1] - both[0] == pytest.approx(2 * rates.search.each)


def test_the_price_of_a_trial_is_the_sum_of_its_parts(tiny_workload: Workload) -> None:
    config = expand(make(tiny_workload, arm("each", kind="fixed")))[0].trial_config()
    splits = untrained(config).splits
    train, search = len(splits.train) // 16, len(splits.search) // 16
    val, test = len(splits.val), len(splits.test)
    epoch = 3.0 + 0.001 * val
    one_search = (5.0 + 0.5 * search) + (7.0 + 0.25 * search)
    first, second = 3 * (1.0 + 0.1 * train + epoch), 2.0 + 0.01 * train + epoch
    tested = 2 * 0.001 * test
    seconds = trial_seconds(config, splits, RATES, 2, 1, 4)
    assert seconds == pytest.approx(1000 + first + second + tested + 2 * one_search)
    # Stopped within the search phase, and not tested.
    seconds = trial_seconds(config, splits, RATES, 1, 1, 2)
    assert seconds == pytest.approx(1000 + first * 2 / 3 + one_search)
    # A search of so many steps still calibrates on its whole split.
    longer = replace(config, search=replace(config.search, steps=10 * search))
    more = trial_seconds(longer, splits, RATES, 2, 1, 4)
    assert more - trial_seconds(config, splits, RATES, 2, 1, 4) == pytest.approx(9 * search)
    # Two workers evaluate half of the images each; the rates are of their own batches.
    halved = trial_seconds(config, splits, RATES, 0, 2, 4)
    saved = trial_seconds(config, splits, RATES, 0, 1, 4) - halved
    assert saved == pytest.approx(0.001 * (4 * val + 2 * test) / 2)


def test_the_price_of_a_grid(tiny_workload: Workload, fixed_rates: list[TrialConfig]) -> None:
    follower = Arm(
        name="best",
        label="best",
        overrides={"schedule": {"kind": "resolved"}},
        needs=(Need(arm="each", role="plans"), Need(arm="adaptive", role="count")),
        resolver="oracle_schedule",
    )
    arms = (arm("each", kind="fixed"), arm("adaptive", kind="adaptive"), follower)
    experiment = apply_settings(make(tiny_workload, *arms, seeds=2), {"search_phase.epochs": 9})
    prices = Pricer(experiment, ONE).arms()
    assert [p.label for p in prices] == ["each", "adaptive", "best"]
    assert [p.trials for p in prices] == [2, 2, 2]
    # Epochs 1 to 8; 1, 2, 4, 8; and what follows both does what either does.
    assert [p.searches for p in prices] == [Span(8, 8), Span(4, 8), Span(4, 8)]
    assert prices[0].trial_s == Span(prices[1].trial_s.high, prices[1].trial_s.high)
    assert prices[2].trial_s == prices[1].trial_s
    assert prices[1].total_s == prices[1].trial_s * 2
    assert len(fixed_rates) == 1


def test_what_is_measured_apart(tiny_workload: Workload, fixed_rates: list[TrialConfig]) -> None:
    arms = (
        arm("each", kind="fixed"),
        Arm(name="tight", label="tight", overrides={"budget": {"reduction": 0.7}}),
        Arm(name="few", label="few", overrides={"finetune": {"batch_size": 8}}),
        Arm(name="long", label="long", overrides={"finetune": {"epochs": 9}}),
        Arm(name="other", label="other", overrides={"method": {"keep_dense": ["head"]}}),
    )
    Pricer(make(tiny_workload, *arms), ONE).arms()
    assert [c.finetune.batch_size for c in fixed_rates] == [16, 8, 16]
    assert [c.method.get("keep_dense") for c in fixed_rates] == [None, None, ["head"]]


def explored(workload: Workload, stopping: Stopping | None) -> Experiment:
    growth = Dimension(name="growth", setting="schedule.growth", kind="float", low=1.0, high=3.0)
    exploration = Exploration(
        space=(growth,),
        objectives=("val_acc", "searches"),
        samples=5,
        stopping=stopping,
        overrides={"schedule": {"kind": "adaptive"}},
    )
    experiment = make(workload, arm("each", kind="fixed"), seeds=2, exploration=exploration)
    return apply_settings(experiment, {"search_phase.epochs": 9})


def test_the_price_of_an_exploration(
    tiny_workload: Workload, fixed_rates: list[TrialConfig]
) -> None:
    plain = Pricer(explored(tiny_workload, None), ONE).arms()
    reference, suggested = plain
    assert (reference.trials, suggested.trials) == (2, 10)
    assert suggested.label == "5 suggested"
    # The most is a search every epoch after the first, whatever the growth.
    assert suggested.searches.high == 8
    assert 2 <= suggested.searches.low < 8
    assert suggested.trial_s.high == pytest.approx(reference.trial_s.high)

    stopped = Pricer(explored(tiny_workload, Stopping(rungs=(3, 6))), ONE).arms()
    assert stopped[0] == reference
    # At the first rung a trial has searched once or twice; and it may run to its end.
    assert 1 <= stopped[1].searches.low <= 2
    assert stopped[1].trial_s.high == pytest.approx(suggested.trial_s.high)
    assert stopped[1].trial_s.low < suggested.trial_s.low


def priced(seconds: float, trials: int = 1) -> ArmPrice:
    return ArmPrice("", trials, Span(0, 0), Span(seconds, 2 * seconds), 0.0)


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        # 3 and 5 and again; then what waits for both, twice.
        (1, 16 + 4),
        # 3 beside 5, then 3 after 3 and 5 after 5; then 2 beside 2.
        (2, 10 + 2),
        (99, 5 + 2),
    ],
)
def test_the_time_of_a_grid_by_hand(
    slots: int, expected: float, tiny_experiment: Experiment
) -> None:
    experiment = tiny_experiment.model_copy(update={"seeds": (0, 1)})
    pricer = Pricer(experiment, replace(ONE, concurrent=slots))
    wall = pricer.wall_s([priced(3, 2), priced(5, 2), priced(2, 2)])
    assert wall == Span(expected, 2 * expected)


@pytest.mark.parametrize(("slots", "expected"), [(1, 66), (2, 36), (99, 12)])
def test_the_time_of_an_exploration_by_hand(
    slots: int, expected: float, tiny_workload: Workload
) -> None:
    # The seeds of an arm in turn: one arm of 2 x 3 s, five of 2 x 6 s. On two: 6, 12, 12 | 12 ...
    pricer = Pricer(explored(tiny_workload, None), replace(ONE, concurrent=slots))
    assert pricer.wall_s([priced(3, 2), priced(6, 10)]).low == expected


def test_the_dense_model_has_a_price_until_it_is_cached(
    tiny_workload: Workload, fixed_rates: list[TrialConfig], dense_cache: Path
) -> None:
    experiment = apply_settings(
        make(tiny_workload, arm("each", kind="fixed")), {"dense.recipe.lr": 0.00123}
    )
    price = Pricer(experiment, ONE).dense()
    assert price.trials == 1 and price.total_s.low == price.total_s.high > 0
    assert not list(dense_cache.rglob("*.tmp"))
    prepare_dense(expand(experiment)[0].trial_config(), dense_cache, "cpu", None)
    price = Pricer(experiment, ONE).dense()
    assert price.trials == 0 and price.total_s == Span(0, 0)


def printed(experiment: Experiment, placement: Placement) -> str:
    console = Console(width=160)
    with console.capture() as text:
        console.print(estimate_table(experiment, placement))
    return text.get()


def test_the_table_says_what_it_is(tiny_workload: Workload, dense_cache: Path) -> None:
    experiment = make(tiny_workload, arm("each", kind="fixed"), arm("adaptive", kind="adaptive"))
    text = printed(experiment, ONE)
    lines, words = text.splitlines(), " ".join(text.split())
    assert words.startswith("ESTIMATE: from two steps") and "alone on 1 of " in words
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["each"][1:3] == ["1", "2"]
    assert rows["all"][1] == "2"
    assert float(rows["all"][-1]) == 0.0
    assert "from start to end, 1 at a time" in words


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(2.0, "2.0 s"), (119.0, "119.0 s"), (150.0, "2.5 min"), (7300.0, "2.0 h")],
)
def test_units_of_time(seconds: float, expected: str) -> None:
    assert estimate._time(Span(seconds, seconds)) == expected


def test_spans_add_up() -> None:
    assert Span(1, 2) + Span(10, 20) == Span(11, 22)
    assert Span(1, 2) * 3 == Span(3, 6)
