import pytest
import torch

from adacomcat.config import SearchConfig
from adacomcat.schedule import build_schedule
from adacomcat.search.anneal import LearningRate, temperature

CLOCKS = ("per_epoch", "per_search")
EPOCHS = 30


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_search_at_every_epoch_goes_from_start_to_end(clock):
    """Epochs 1 to 29, as published: 29 searches, one factor apart from 5 to 0.1."""
    config = SearchConfig(clock=clock)
    found = [temperature(config, epoch, epoch - 1, EPOCHS) for epoch in range(1, EPOCHS)]
    assert found[0] == 5.0
    assert found[-1] == pytest.approx(0.1)
    factors = [later / earlier for earlier, later in zip(found, found[1:], strict=False)]
    assert factors == pytest.approx([(0.1 / 5) ** (1 / 28)] * 28)


def test_fewer_searches_end_hotter_only_on_their_own_clock():
    epochs = (1, 2, 3, 4, 8, 16, 29)
    last = {
        clock: temperature(SearchConfig(clock=clock), epochs[-1], len(epochs) - 1, EPOCHS)
        for clock in CLOCKS
    }
    assert last["per_epoch"] == pytest.approx(0.1)
    assert last["per_search"] == pytest.approx(5 * (0.1 / 5) ** (6 / 28))


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(("epoch", "searches", "epochs"), [(0, 0, 30), (1, 0, 2), (0, 0, 1)])
def test_short_phases_start_at_the_start(clock, epoch, searches, epochs):
    assert temperature(SearchConfig(clock=clock), epoch, searches, epochs) == 5.0


@pytest.mark.parametrize("clock", CLOCKS)
def test_it_never_leaves_its_range(clock):
    config = SearchConfig(clock=clock, temperature_start=0.5, temperature_end=2.0)
    found = [temperature(config, epoch, searches, 5) for epoch in range(9) for searches in range(9)]
    assert min(found) == 0.5
    assert max(found) == pytest.approx(2.0)


def by_torch(lr, min_lr, count):
    """The rates of torch's cosine over so many steps, the last of which has the smallest."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count - 1, eta_min=min_lr)
    rates = []
    for _ in range(count):
        rates.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    return rates


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [
        ({"kind": "explicit", "epochs": [0, 1, 2]}, 3),
        ({"kind": "fixed", "every": 3, "start": 2}, 12),
        ({"kind": "once", "at": 4}, 30),
        ({"kind": "adaptive", "warmup": 5}, 9),
    ],
)
def test_the_rate_falls_along_one_cosine_over_all_searches(clock, schedule, epochs):
    config = SearchConfig(lr=0.01, min_lr=0.001, clock=clock)
    due_epochs = [epoch for epoch in range(epochs) if build_schedule(schedule).due(epoch)]
    rate, steps = LearningRate(config, due_epochs), 5
    found = [
        rate.at(epoch, searches, step, steps)
        for searches, epoch in enumerate(due_epochs)
        for step in range(steps)
    ]
    assert found == pytest.approx(by_torch(0.01, 0.001, len(found)))
    assert (found[0], found[-1]) == pytest.approx((0.01, 0.001))


def test_a_search_that_is_left_out_leaves_out_its_piece_on_the_clock_of_epochs():
    whole = by_torch(0.01, 0.001, 12)
    for clock, piece in (("per_epoch", 3), ("per_search", 1)):
        rate = LearningRate(SearchConfig(lr=0.01, min_lr=0.001, clock=clock), (1, 2, 3, 4))
        found = [rate.at(4, 1, step, 3) for step in range(3)]
        assert found == pytest.approx(whole[3 * piece : 3 * piece + 3])


def test_the_rate_stays_where_nothing_is_said_and_at_the_end():
    assert LearningRate(SearchConfig(lr=0.3), (1, 2)).at(2, 1, 7, 9) == 0.3
    falling = LearningRate(SearchConfig(lr=0.3, min_lr=0.1, clock="per_search"), (1,))
    assert falling.at(1, 0, 0, 1) == pytest.approx(0.3)
    assert falling.at(2, 1, 0, 4) == pytest.approx(0.1)
