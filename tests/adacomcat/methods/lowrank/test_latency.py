"""Made-up tables against brute force over plans; one measurement, for its structure."""

import copy
import itertools

import pytest
import torch
from torch import nn

from adacomcat.config import BudgetConfig
from adacomcat.methods.lowrank import latency
from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.lowrank.spec import model_sites, shape_of
from adacomcat.plan import Plan
from adacomcat.testing.latency import made_up_table
from adacomcat.testing.models import tiny_images, tiny_vit
from adacomcat.timing import Times

SITES = {"sites": ("qk", "vo", "fc1", "head")}


def bind(seed=0, model=None, **settings):
    """A method on a model of one block, with a made-up table of its own."""
    model = tiny_vit(depth=1) if model is None else model
    table = made_up_table(model, seed=seed, **settings)
    method = LowRank(model, LowRankConfig(**settings))
    method.use_times_(table)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        method.mixture.logits.copy_(torch.randn(method.mixture.logits.shape, generator=source))
    return method, table


def ways(method, table, row):
    """(decision, nanoseconds, log-probability) of each candidate of a site, off the table."""
    site = method.sites[row]
    entry = table["kinds"][site.kind]
    logits = method.mixture.logits.detach()[row, : len(site.candidates)].double().log_softmax(0)
    for candidate, value in zip(site.candidates, logits.tolist(), strict=True):
        ns = entry["rank_ns"][str(candidate.rank)]
        fast = ns < entry["dense_ns"]
        yield (candidate.rank, ns, value) if fast else (None, entry["dense_ns"], value)


def all_plans(method, table):
    """(log-probability, nanoseconds of the searched sites, decisions) of every plan."""
    rows = [list(ways(method, table, row)) for row in range(len(method.sites))]
    for picks in itertools.product(*rows):
        ranks, ns, values = zip(*picks, strict=True)
        yield sum(values), sum(ns), ranks


def in_time(table, total):
    return BudgetConfig(unit="latency", reduction=None, absolute=total, latency=table)


def test_the_proposal_is_the_most_probable_plan_within_the_time():
    left_dense = 0
    for seed in range(6):
        method, table = bind(seed, **SITES)
        plans = list(all_plans(method, table))
        assert len(plans) > 100
        searched = sum(table["kinds"][s.kind]["dense_ns"] for s in method.sites)
        fixed = table["model_ns"] - searched
        low, high = min(ns for _, ns, _ in plans), max(ns for _, ns, _ in plans)
        for share in (0.3, 0.6, 0.9):
            total = round(low + share * (high - low)) + fixed
            budget = method.budget(in_time(table, total))
            assert (budget.target, budget.fixed) == (total - fixed, fixed)
            proposal = method.propose(budget, "projected")
            _, ns, ranks = max(
                (plan for plan in plans if plan[1] + fixed <= total), key=lambda plan: plan[0]
            )
            assert tuple(proposal.plan.decisions.values()) == ranks
            assert proposal.cost == method.plan_cost(proposal.plan, "latency") == ns
            left_dense += ranks.count(None)
    assert left_dense > 0


def test_site_by_site_a_slow_choice_is_dense_too():
    method, table = bind(**SITES)
    with torch.no_grad():
        method.mixture.logits.zero_()
        for row, site in enumerate(method.sites):
            method.mixture.logits[row, len(site.candidates) - 1] = 5
    proposal = method.propose(method.budget(in_time(table, table["model_ns"])), "argmax")
    assert set(proposal.plan.decisions.values()) == {None}
    assert proposal.cost == method.dense_cost("latency")[0]


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_time_is_that_of_the_fastest_plan(seed):
    method, table = bind(seed, **SITES)
    searched, fixed = method.dense_cost("latency")
    assert searched + fixed == table["model_ns"]
    smallest = min(ns for _, ns, _ in all_plans(method, table))
    assert method.smallest_cost("latency") == smallest
    allowed = f"at least {smallest + fixed:,.0f} ns an image"
    with pytest.raises(ValueError, match=f"budget.absolute: got .*{allowed}"):
        method.budget(in_time(table, smallest + fixed - 1))
    assert method.budget(in_time(table, smallest + fixed)).target == smallest


def test_a_reduction_is_of_the_whole_dense_time():
    method, table = bind()
    budget = method.budget(BudgetConfig(unit="latency", reduction=0.4, latency=table))
    assert budget.target + budget.fixed == pytest.approx(0.6 * table["model_ns"])
    assert budget.attained(budget.target) == pytest.approx(0.4)


def uniform_by_hand(method, table):
    """The uniform plans from the smallest on, as lists of (decision, nanoseconds, ...) of sites."""
    found = [list(ways(method, table, row)) for row in range(len(method.sites))]
    shares = [[c.rank / s.full for c in s.candidates] for s in method.sites]
    # Plan by plan: the first sites have reached a share, the others are still below it.
    on_the_way = [[row[0] for row in found]]
    for share in sorted(set(itertools.chain(*shares))):
        for count in range(len(found) + 1):
            picks = []
            for index, (row, own) in enumerate(zip(found, shares, strict=True)):
                reached = [o <= share if index < count else o < share for o in own]
                picks.append(row[max(sum(reached) - 1, 0)])
            on_the_way.append(picks)
    return on_the_way


def test_the_uniform_plan_climbs_as_far_as_the_time_allows():
    off_the_way = 0
    for seed in range(4):
        method, table = bind(seed, tiny_vit(depth=2))
        on_the_way = uniform_by_hand(method, table)
        assert len(on_the_way) > 20
        rows = [list(ways(method, table, row)) for row in range(len(method.sites))]
        fastest = [min(row, key=lambda way: way[1]) for row in rows]
        (dense, fixed), smallest = method.dense_cost("latency"), method.smallest_cost("latency")
        for share in (0.0, 0.2, 0.5, 0.8, 1.0):
            target = smallest + share * (dense - smallest)
            within = [plan for plan in on_the_way if sum(ns for _, ns, _ in plan) <= target]
            expected = within[-1] if within else fastest
            budget = method.budget(in_time(table, target + fixed))
            decisions = method.default_plan(budget).decisions
            assert tuple(decisions.values()) == tuple(rank for rank, _, _ in expected)
            off_the_way += not within
    # A smaller rank is not always a faster one: the fastest plan need not be a uniform one.
    assert off_the_way > 0


def test_the_expected_time_counts_a_slow_rank_as_dense():
    method, table = bind()
    method.prepare_()
    method.sample_(0.7, torch.Generator().manual_seed(1))
    weights = method.mixture.weights.tolist()
    by_hand = sum(
        weight * ns
        for row in range(len(method.sites))
        for weight, (_, ns, _) in zip(weights[row], ways(method, table, row), strict=False)
    )
    assert method.expected_cost("latency").item() == pytest.approx(by_hand)
    # What is counted otherwise stays.
    before = LowRank(tiny_vit(depth=1), LowRankConfig())
    before.mixture.weights = method.mixture.weights
    for unit in ("params", "macs"):
        assert method.expected_cost(unit).item() == before.expected_cost(unit).item()


def test_a_site_left_dense_keeps_its_module():
    method, _ = bind()
    outputs = method.model(tiny_images())
    modules = {site.kind: method.model.get_submodule(site.module) for site in method.sites}
    decisions = {s.name: s.decision("latency", s.candidates[-1].rank) for s in method.sites}
    assert set(decisions.values()) == {None}
    method.commit_(Plan("lowrank", decisions))
    assert all(method.model.get_submodule(s.module) is modules[s.kind] for s in method.sites)
    assert torch.equal(method.model(tiny_images()), outputs)
    half = {s.name: s.candidates[0].rank if s.kind == "qk" else None for s in method.sites}
    method.commit_(Plan("lowrank", half))
    attention = method.model.blocks[0].attn
    assert attention.sizes == (half["blocks.0.qk"], half["blocks.0.qk"], 32)


def test_a_rank_in_force_cannot_be_left_dense():
    """With source `current` nothing grows back: its own time counts, however slow."""
    for source, grows in (("current", False), ("dense", True)):
        method, table = bind(source=source)
        slow = {s.name: s.candidates[-1].rank for s in method.sites}
        method.commit_(Plan("lowrank", slow))
        with torch.no_grad():
            method.mixture.logits.zero_()
            for row, site in enumerate(method.sites):
                method.mixture.logits[row, len(site.candidates) - 1] = 5
        method.prepare_()
        proposal = method.propose(method.budget(in_time(table, table["model_ns"])), "argmax")
        assert proposal.plan.decisions == (dict.fromkeys(slow) if grows else slow)
        assert (proposal.cost > method.dense_cost("latency")[0]) != grows


def test_ranks_between_the_candidates():
    method, table = bind()
    ranks = {int(r): ns for r, ns in table["kinds"]["fc1"]["rank_ns"].items()}
    fc1 = next(site for site in method.sites if site.kind == "fc1")
    low, high = sorted(ranks)[:2]
    assert high - low > 1
    assert fc1.cost("latency", low + 1) == ranks[high] == fc1.cost("latency", high)
    assert fc1.cost("latency", 1) == ranks[low]
    with pytest.raises(ValueError, match=r"plan\.decisions\.blocks\.0\.fc1: got 32, .*up to 2\d"):
        fc1.cost("latency", 32)


def spoilt(table, *path, value=None):
    """A copy of a table with one entry set, or taken out."""
    table = copy.deepcopy(table)
    entry = table
    for step in path[:-1]:
        entry = entry[step]
    if value is None:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return table


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kinds", "vo"), None, r"kinds: got \['fc1', .*allowed: with vo too"),
        (("kinds", "qk", "rank_ns", "16"), None, r"qk\.rank_ns: got .*with 16 too, .*\.0\.qk"),
        (("kinds", "fc1", "inputs"), 64, r"fc1\.inputs: got 64, allowed: 32, this model's"),
        (("kinds", "qk", "tokens"), 197, r"qk\.tokens: got 197, allowed: 17"),
        (("kinds", "qk", "sites"), 12, r"qk\.sites: got 12, allowed: 1"),
        (("kinds", "head", "dense_ns"), 1.5, r"head\.dense_ns: got 1\.5, .*an integer"),
        (("kinds", "head", "dense_ns"), None, r"kinds\.head: got .*exactly sites"),
        (("kinds", "vo", "rank_ns", "16"), 0, r"vo\.rank_ns\.16: got 0"),
        (("kinds", "vo", "rank_ns", "x"), 5, r"vo\.rank_ns: got 'x', allowed: ranks"),
        (("kinds", "vo", "rank_ns"), 3, r"vo\.rank_ns: got 3"),
        (("kinds", "vo"), 3, r"kinds\.vo: got 3"),
        (("kinds",), 3, r"kinds: got 3"),
        (("model_ns",), True, r"model_ns: got True"),
        (("on",), None, r": got \['kinds', 'model_ns'\], allowed: on"),
    ],
)
def test_a_table_that_does_not_fit(path, value, message):
    method, table = bind()
    with pytest.raises(ValueError, match=r"^budget\.latency.*" + message):
        method.budget(in_time(spoilt(table, *path, value=value), 1e9))


def test_what_the_table_has_beyond_the_space_is_left_alone():
    method, table = bind(**SITES)
    more = made_up_table(tiny_vit(depth=1), fractions=[0.1, *LowRankConfig().fractions])
    assert more["kinds"].keys() > table["kinds"].keys()
    method.use_times_(more)
    qk = method.sites[0]
    assert [qk.cost("latency", c.rank) for c in qk.candidates] == [
        more["kinds"]["qk"]["rank_ns"][str(c.rank)] for c in qk.candidates
    ]


def test_no_table_and_no_such_unit():
    with pytest.raises(ValueError, match=r"budget\.latency: got \{\}.*adacomcat latency"):
        BudgetConfig(unit="latency")

    class Untimed(LowRank):
        units = ("params", "macs")

    method = Untimed(tiny_vit(), LowRankConfig())
    with pytest.raises(ValueError, match=r"budget\.unit: got 'latency', .*'lowrank'"):
        method.budget(in_time(made_up_table(tiny_vit()), 1e9))


@pytest.mark.parametrize("alone", [None, "qk", "vo"])
def test_the_model_adds_up_to_what_was_measured(alone):
    """Dense sides to the dense module, and factorized ones to theirs: both, or the one searched."""
    sites = ("qk", "vo", "fc1", "fc2", "head") if alone is None else (alone, "fc1", "fc2", "head")
    method = LowRank(tiny_vit(), LowRankConfig(sites=sites))
    names = [f"{s.kind} {c.rank}" for s in method.sites for c in s.candidates]
    batch = 4
    wanted = {n: 900 + 8 * i for i, n in enumerate(dict.fromkeys(names))}
    wanted |= {"model": 90_001, "attention": 1001, "fc1": 505, "fc2": 707, "head": 11}
    # The median of uneven rounds, over the images of a call.
    times = {
        n: Times(tuple(batch * ns * 1e-9 * f for f in (1, 5, 0.5))) for n, ns in wanted.items()
    }
    table = latency.table_of(
        times, method.sites, model_sites(method.model), batch_size=batch, on="made up"
    )
    method.use_times_(table)
    searched, fixed = method.dense_cost("latency")
    attention = 1001 if alone is None else {"qk": 500, "vo": 501}[alone]
    assert searched == 2 * (attention + 505 + 707) + 11
    assert searched + fixed == 90_001
    by_name = {site.name: site for site in method.sites}
    fc1 = by_name["blocks.1.fc1"]
    for kind in ("qk", "vo") if alone is None else (alone,):
        site = by_name[f"blocks.1.{kind}"]
        for rank in (c.rank for c in site.candidates):
            whole = wanted[f"{kind} {rank}"]
            # The side that is always whole has what the dense module leaves it.
            expected = whole / 2 if alone is None else whole - (1001 - attention)
            assert site.cost("latency", rank) == expected
    assert [fc1.cost("latency", c.rank) for c in fc1.candidates] == [
        wanted[f"fc1 {c.rank}"] for c in fc1.candidates
    ]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_what_is_measured_is_what_a_commit_makes_and_a_model_feeds(name, monkeypatch):
    model, images, calls = tiny_vit(name), tiny_images(3), {}
    monkeypatch.setattr(
        latency, "take_turns", lambda variants, **_: calls.update(variants) or variants
    )
    method = LowRank(copy.deepcopy(model), LowRankConfig(biases="drop"))
    latency.measure(model, method.sites, images, biases=False, repeats=1)
    seen = {}

    def remember(module, inputs, outputs):
        seen[module] = (inputs[0].shape, outputs.shape)

    hooks = [
        module.register_forward_hook(remember)
        for module in model.modules()
        if isinstance(module, nn.Linear) or hasattr(module, "qkv")
    ]
    expected = model(images)
    for hook in hooks:
        hook.remove()
    assert torch.equal(calls["model"](), expected)
    names = {"model", "attention", "fc1", "fc2", "head"}
    for site in method.sites:
        dense = model.get_submodule(site.module)
        for candidate in site.candidates:
            label = f"{site.kind} {candidate.rank}"
            names.add(label)
            module, (inputs,) = calls[label].func, calls[label].args
            assert (inputs.shape, module(inputs).shape) == seen[dense]
            one = LowRank(copy.deepcopy(model), LowRankConfig(biases="drop"))
            ranks = {s.name: candidate.rank if s.module == site.module else None for s in one.sites}
            one.commit_(Plan("lowrank", ranks))
            assert shape_of(module) == shape_of(one.model.get_submodule(site.module))
    assert calls.keys() == names
    assert {calls[kind].func for kind in ("fc1", "fc2")} == {
        model.blocks[0].mlp.fc1,
        model.blocks[0].mlp.fc2,
    }
    assert calls["attention"].func is model.blocks[0].attn


def test_whole_plans_are_measured_as_committed(monkeypatch):
    model, images, calls = tiny_vit(), tiny_images(3), {}
    monkeypatch.setattr(
        latency, "take_turns", lambda variants, **_: calls.update(variants) or variants
    )
    method = LowRank(copy.deepcopy(model), LowRankConfig())
    ranks = {s.name: None if s.kind == "fc2" else s.candidates[0].rank for s in method.sites}
    plan = Plan("lowrank", ranks)
    latency.measure_plans(model, {"small": plan}, images, biases=True, repeats=1)
    method.commit_(plan)
    measured = calls["small"].func
    assert isinstance(measured.blocks[0].attn, LowRankAttention)
    shapes = {name: tensor.shape for name, tensor in measured.state_dict().items()}
    committed = method.model.state_dict()
    assert shapes == {name: tensor.shape for name, tensor in committed.items()}
    assert calls["model"].func is model and measured is not model


def test_a_measurement_makes_a_table_that_fits():
    model = tiny_vit(depth=1).bfloat16()
    method = LowRank(model, LowRankConfig(space="aligned", keep_dense=("head",)))
    times = latency.measure(model, method.sites, tiny_images(2).bfloat16(), biases=True, repeats=2)
    assert all(len(found.seconds) == 2 and min(found.seconds) > 0 for found in times.values())
    table = latency.table_of(
        times, method.sites, model_sites(model), batch_size=2, on="this machine"
    )
    assert list(table["kinds"]) == ["qk", "vo", "fc1", "fc2"]
    budget = method.budget(in_time(table, table["model_ns"]))
    assert budget.dense == table["model_ns"]
    assert method.propose(budget, "projected").cost <= method.dense_cost("latency")[0]
