import pytest

from adacomcat.config import SearchConfig
from adacomcat.search.anneal import temperature

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
