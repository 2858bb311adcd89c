import copy
import dataclasses
import itertools
import json
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adacomcat.plan import Plan

SITES = ("blocks.0.qk", "blocks.0.vo", "blocks.0.fc1", "head")
decisions = st.none() | st.integers(1, 400)
plans = st.tuples(*[decisions] * len(SITES)).map(
    lambda ranks: Plan("lowrank", dict(zip(SITES, ranks, strict=True)))
)


def make(**ranks):
    return Plan("lowrank", ranks)


@settings(deadline=None)
@given(plans, plans)
def test_distance_is_symmetric_bounded_and_zero_only_when_equal(a, b):
    distance = a.distance(b)
    assert distance == b.distance(a)
    assert 0 <= distance <= 1
    assert (distance == 0) == (a == b) == (a.changed(b) == ())
    assert a.distance(a) == 0


@settings(deadline=None)
@given(plans, plans)
def test_distance_equals_exact_mean(a, b):
    terms = []
    for x, y in zip(a.decisions.values(), b.decisions.values(), strict=True):
        if x is None or y is None:
            terms.append(Fraction(x is not y))
        else:
            terms.append(1 - Fraction(min(x, y), max(x, y)))
    assert a.distance(b) == pytest.approx(float(sum(terms) / len(terms)), rel=1e-12)


@settings(deadline=None)
@given(plans, plans, plans)
def test_distance_obeys_the_triangle(a, b, c):
    assert a.distance(c) <= a.distance(b) + b.distance(c) + 1e-12


def test_distance_by_hand():
    a, b = make(p=10, q=4, r=None, s=None), make(p=5, q=4, r=None, s=7)
    assert a.distance(b) == (0.5 + 0 + 0 + 1) / 4
    assert a.changed(b) == ("p", "s")


@settings(deadline=None)
@given(plans, st.permutations(SITES))
def test_order_of_sites_is_kept_but_means_nothing(plan, order):
    other = Plan("lowrank", {site: plan.decisions[site] for site in order})
    assert tuple(other.decisions) == tuple(order)
    assert other == plan and hash(other) == hash(plan) and other.digest() == plan.digest()
    assert tuple(Plan.from_json(other.to_json()).decisions) == tuple(order)


@settings(deadline=None)
@given(plans, plans)
def test_digest_and_hash_tell_plans_apart(a, b):
    assert (a.digest() == b.digest()) == (a == b)
    assert len({a, b}) == (1 if a == b else 2)


def test_digest_is_the_same_in_another_process():
    program = (
        "from adacomcat.plan import Plan; print(Plan('lowrank', {'a': 1, 'b': None}).digest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert other.stdout.decode().strip() == make(b=None, a=1).digest()


def test_other_method_is_another_plan():
    a, b = Plan("lowrank", {"p": 1}), Plan("tokens", {"p": 1})
    assert a != b and a.digest() != b.digest()
    with pytest.raises(ValueError, match=r"plan\.method.*'tokens'.*lowrank"):
        a.distance(b)


def test_other_sites_are_refused_by_name():
    for verb in (Plan.distance, Plan.changed):
        with pytest.raises(ValueError, match=r"plan\.decisions.*\['q', 'r'\]"):
            verb(make(p=1, q=2), make(p=1, r=2))


def test_plan_is_frozen():
    source = {"p": 1}
    plan = Plan("lowrank", source)
    source["p"] = 2
    assert plan.decisions["p"] == 1
    with pytest.raises(TypeError):
        plan.decisions["p"] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.decisions = {"p": 3}
    assert plan != {"p": 1}


@settings(deadline=None)
@given(plans)
def test_json_and_copies_round_trip(plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan) == plan


@pytest.mark.parametrize("decision", [float("nan"), float("inf"), [4], {}, b"4", np.float64(0.5)])
def test_refused_decision_names_its_site(decision):
    data = make(p=1, q=2).to_json()
    data["decisions"]["q"] = decision
    with pytest.raises(ValueError, match=r"plan\.decisions\.q: got .*a finite number, text"):
        Plan.from_json(data)


SCALARS = (0, 1, 1.0, True, False, 0.95, -3, "4", "0.95:ab12", "", None)


def test_every_json_scalar_is_a_decision_of_its_own():
    plans = [make(p=scalar) for scalar in SCALARS]
    for (i, a), (j, b) in itertools.product(enumerate(plans), repeat=2):
        assert (a == b) == (a.digest() == b.digest()) == (a.changed(b) == ()) == (i == j)
    assert len(set(plans)) == len(SCALARS)
    for plan in plans:
        again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
        assert again == plan and type(again.decisions["p"]) is type(plan.decisions["p"])
    assert make(p=-0.0).digest() == make(p=0.0).digest()


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        (0.5, 1.0, 0.5),
        (0, 4, 1.0),
        (-2, 2, 1.0),
        (4, 4.0, 0.0),
        (True, False, 1.0),
        (True, 1, 1.0),
        ("a", "b", 1.0),
        ("4", 4, 1.0),
        ("a", "a", 0.0),
        (0.9, None, 1.0),
    ],
)
def test_distance_of_scalars(a, b, distance):
    assert make(p=a).distance(make(p=b)) == make(p=b).distance(make(p=a)) == distance


def test_a_site_may_count_its_own_distance():
    def by_length(a, b):
        return abs(len(a) - len(b)) / 10

    a, b = make(p="xx", q=4, r="x"), make(p="xxxx", q=2, r=None)
    assert a.distance(b, {"p": by_length, "r": by_length}) == pytest.approx((0.2 + 0.5 + 1) / 3)


@pytest.mark.parametrize("name", ["version", "method", "decisions"])
def test_missing_field_is_named(name):
    data = make(p=1).to_json()
    del data[name]
    with pytest.raises(ValueError, match=rf"plan\.{name}: got 'nothing'"):
        Plan.from_json(data)


def test_version_1_is_read():
    assert Plan.from_json({**make(p=1).to_json(), "version": 1}) == make(p=1)


@pytest.mark.parametrize("version", [3, 0, "1", True, None])
def test_other_version_is_refused(version):
    with pytest.raises(ValueError, match=r"plan\.version: got .*newer adacomcat"):
        Plan.from_json({**make(p=1).to_json(), "version": version})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": ""}, r"plan\.method"),
        ({"method": 3}, r"plan\.method"),
        ({"decisions": {}}, r"plan\.decisions"),
        ({"decisions": [1, 2]}, r"plan\.decisions"),
        ({"decisions": {"": 1}}, r"plan\.decisions"),
        ({"decision": {"p": 1}}, r"plan\.decision: got 'decision' \(did you mean 'decisions'"),
    ],
)
def test_malformed_json_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_json({**make(p=1).to_json(), **change})
    with pytest.raises(ValueError, match="a mapping"):
        Plan.from_json([change])
