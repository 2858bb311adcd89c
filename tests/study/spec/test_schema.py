import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adacomcat.config import TrialConfig
from study.spec.schema import Arm, Experiment, Need, TrialSpec, Workload, levels, make_trial_id

WORKLOAD = Workload(name="w", description="a workload")


def arm(name: str, **more: Any) -> Arm:
    return Arm(name=name, label=name, overrides={}, **more)


def experiment(*arms: Arm, seeds: tuple[int, ...] = (0,)) -> Experiment:
    return Experiment(name="e", question="?", workload=WORKLOAD, arms=arms, seeds=seeds)


def waits(name: str, *others: str) -> Arm:
    needs = tuple(Need(arm=other, role=f"role_{other}") for other in others)
    return arm(name, needs=needs, resolver="some")


def test_unknown_fields_and_unsafe_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^defautls: .*did you mean 'defaults'"):
        Workload(name="w", description="", defautls={})
    for name in ("../up", "a-b", "", "A", "a b"):
        with pytest.raises(ValueError, match=rf"^arms\.{name}\.name: got .*lower-case"):
            arm(name)


@pytest.mark.parametrize(
    ("arms", "seeds", "message"),
    [
        ((arm("a"), arm("a")), (0,), "arms: got .*each arm once"),
        ((arm("a"),), (1, 1), "seeds: got .*each seed once"),
        ((arm("a"),), (-1,), r"seeds\.0: got .*0 or more"),
        ((arm("a"), waits("b", "aa")), (0,), r"arms\.b\.needs: got 'aa' \(did you mean 'a'\?\)"),
        ((waits("a", "a"),), (0,), r"arms\.needs: got \['a'\], allowed: no circle"),
        ((arm("c"), waits("a", "b"), waits("b", "a")), (0,), r"got \['a', 'b'\].*no circle"),
        ((), (0,), "arms"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(
    arms: tuple[Arm, ...], seeds: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(*arms, seeds=seeds)


def test_needs_and_resolver_come_together() -> None:
    with pytest.raises(ValueError, match=r"arms\.a\.resolver: got None"):
        arm("a", needs=(Need(arm="b", role="r"),))
    with pytest.raises(ValueError, match=r"arms\.a\.resolver: got 'some'"):
        arm("a", resolver="some")
    with pytest.raises(ValueError, match=r"arms\.a\.needs: .*each role once"):
        arm("a", needs=(Need(arm="b", role="r"), Need(arm="c", role="r")), resolver="some")


def test_a_trial_id_holds_the_hash_of_the_configuration() -> None:
    config = {"b": 1, "a": {"c": None}}
    text = json.dumps({"a": {"c": None}, "b": 1}, sort_keys=True, separators=(",", ":"))
    digits = hashlib.sha256(text.encode()).hexdigest()[:8]
    assert make_trial_id("w", "fixed_1", 2, config, {}) == f"w-fixed_1-s2-{digits}"


def test_a_trial_id_depends_on_the_trials_that_are_needed() -> None:
    ids = {make_trial_id("w", "a", 0, {}, needs) for needs in ({}, {"r": "x"}, {"r": "y"})}
    assert len(ids) == 3


@given(
    st.dictionaries(
        st.integers(0, 9).map(str), st.sets(st.integers(0, 9).map(str), max_size=3), max_size=10
    )
)
def test_levels_put_each_name_once_and_after_its_needs(raw: dict[str, set[str]]) -> None:
    # A need of a greater number is dropped, so that no circle is left.
    needs = {n: {w for w in wants if w in raw and w < n} for n, wants in raw.items()}
    waves = levels(needs, "x")
    place = {name: i for i, wave in enumerate(waves) for name in wave}
    assert sorted(name for wave in waves for name in wave) == sorted(needs)
    assert all(place[want] < place[name] for name, wants in needs.items() for want in wants)
    # And no later than it must be.
    for name, wants in needs.items():
        assert place[name] == max((place[want] + 1 for want in wants), default=0)


def test_a_specification_gives_back_its_configuration() -> None:
    config = TrialConfig(seed=4)
    spec = TrialSpec(
        trial_id="t",
        experiment="e",
        workload="w",
        arm="a",
        label="A",
        seed=4,
        config=json.loads(json.dumps(config.to_json())),
    )
    assert spec.trial_config() == config
