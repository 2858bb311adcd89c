"""Token rates on the command line: searched, published, finetuned, looked at and refused."""

import json

import pytest
import timm
import torch

import adacomcat
from adacomcat.cli.main import main, parse
from adacomcat.cli.request import eval_config, measured_config, search_config
from adacomcat.io.run import Run
from adacomcat.methods.registry import build_method
from adacomcat.methods.tokens.rates import published_at
from adacomcat.methods.tokens.spec import rates_of, shape_, shapes_for
from adacomcat.testing.models import tiny_vit

METHODS = ("lowrank", "diffrate", "lowrank+diffrate")
CLASSES, SIDE = 4, 32
TINY = "deit_tiny_patch16_224"
DENSE_MACS, TARGET = 1_143_168, 0.001


@pytest.fixture(scope="session")
def given(asked):
    """Model, weights and data of `asked`, without its recipe."""
    return asked[: asked.index("--target-reduction")]


@pytest.fixture(scope="session")
def dropped(given, tmp_path_factory):
    """What a search for token rates leaves; not to be changed."""
    folder = tmp_path_factory.mktemp("dropped") / "run"
    more = [
        "--method",
        "diffrate",
        "--target-gmacs",
        str(TARGET),
        "--epochs",
        "2",
        "--search-batch-size",
        "4",
        "--set",
        "search.steps=8",
        "--set",
        "search.lr=0.3",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--output",
        str(folder),
    ]
    assert main(["search", *given, *more]) == 0
    return folder


def config_of(*words):
    return search_config(parse(["search", "--output", "x", *map(str, words)]))


# A search, and what can be done with what it leaves.


def test_a_search_reaches_its_target_with_the_dense_weights(dropped, dense):
    summary = Run(dropped).record()["summary"]
    assert summary["dense_macs"] == DENSE_MACS and summary["params"] == summary["dense_params"]
    # Within the target, and less than a token in the last block away from it.
    assert 0.97 * TARGET * 1e9 < summary["macs"] <= TARGET * 1e9
    plan = json.loads((dropped / "plan.json").read_text())
    assert plan["method"] == "diffrate"
    assert set(plan["decisions"]) == {"blocks.1.prune", "blocks.1.merge"}
    state = adacomcat.load(dropped).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in dense.state_dict().items())


def test_info_shows_tokens_and_eval_says_what_the_search_said(dropped, cli):
    summary = Run(dropped).record()["summary"]
    found = cli("info", "--from", dropped, "--json").json
    assert found["macs"] == summary["macs"] and found["sites"] == []
    last = rates_of(adacomcat.load(dropped)).steps(17)[-1]
    block = found["blocks"][-1]
    assert (block["tokens"], block["pruned"], block["merged"]) == (17, last.pruned, last.after)
    rest = found["dense_macs"] - sum(row["dense_macs"] for row in found["blocks"])
    assert found["macs"] == rest + sum(row["macs"] for row in found["blocks"])
    text = cli("info", "--from", dropped).out
    assert "after pruning" in text and f"{found['published_macs']:,}" in text
    assert "100.0% of dense" in text and "rank" not in text
    evaluated = cli("eval", "--from", dropped, "--device", "cpu", "--json").json
    assert evaluated["accuracy"] == summary["test_acc"] and evaluated["macs"] == summary["macs"]


def test_a_finetune_keeps_the_counts(dropped, tmp_path, cli):
    done = cli(
        "finetune",
        "--from",
        dropped,
        "--output",
        tmp_path / "tuned",
        "--epochs",
        1,
        "--batch-size",
        16,
        "--device",
        "cpu",
    )
    assert done.status == 0, done.err
    assert (tmp_path / "tuned" / "plan.json").read_text() == (dropped / "plan.json").read_text()
    before, after = adacomcat.load(dropped), adacomcat.load(tmp_path / "tuned")
    assert rates_of(after) == rates_of(before)
    assert not torch.equal(after.head.weight, before.head.weight)


def test_a_model_without_a_record_is_finetuned_by_its_method(
    dropped, weights, images, tmp_path, cli
):
    source = tmp_path / "model"
    adacomcat.save(adacomcat.load(dropped), source, plan=plan_in(dropped))
    done = cli(
        "finetune",
        "--from",
        source,
        "--data",
        images,
        "--weights",
        weights,
        "--epochs",
        1,
        "--batch-size",
        16,
        "--workers",
        0,
        "--device",
        "cpu",
        "--output",
        tmp_path / "tuned",
    )
    assert done.status == 0, done.err
    config = Run(tmp_path / "tuned").record()["config"]
    assert config["method"]["name"] == "diffrate" and config["finetune"]["lr"] == 2e-5


def plan_in(folder):
    return adacomcat.Plan.from_json(json.loads((folder / "plan.json").read_text()))


@pytest.mark.slow
def test_an_export_runs(dropped, tmp_path, cli):
    path = tmp_path / "model.pt2"
    done = cli("export", "--from", dropped, "--to", "torch-export", "--output", path)
    assert done.status == 0 and "parity with eager, PyTorch" in done.out, done.err


def test_the_references_format_is_refused(dropped, tmp_path, cli):
    done = cli("convert", "--from", dropped, "--to", "comcat", "--output", tmp_path / "comcat")
    assert done.status == 2
    assert done.err == "error: model: got 'diffrate', allowed: lowrank: the format has no more\n"


# Published rates.


def test_info_of_a_published_rate_needs_no_weights(cli):
    words = ["--method", "diffrate", "--model", "deit_small_patch16_224"]
    found = cli("info", *words, "--published-rate", 2.9, "--json").json
    assert round(found["published_macs"] / 1e9, 6) == 2.905256
    assert round(found["dense_published_macs"] / 1e9, 6) == 4.599177
    assert [row["merged"] for row in found["blocks"]][:4] == [197, 194, 176, 156]


@pytest.mark.parametrize(
    ("model", "rate", "formula"),
    [("caformer_s36", 5.6, 5.603730), ("vit_base_patch16_224.mae", 11.5, 11.517147)],
)
def test_info_of_other_families(cli, model, rate, formula):
    words = ["--method", "diffrate", "--model", model, "--published-rate", rate]
    found = cli("info", *words, "--json").json
    # The table was summed up in single precision.
    assert found["published_macs"] == pytest.approx(formula * 1e9, rel=2e-7)
    assert found["sites"] == []
    assert f"{found['macs']:,}" in cli("info", *words).out


def test_eval_at_a_published_rate_is_eval_of_that_model_saved(images, tmp_path, cli):
    torch.manual_seed(0)
    model = timm.create_model(TINY, num_classes=CLASSES).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "deit.pth")
    words = [
        "--data",
        images,
        "--workers",
        0,
        "--device",
        "cpu",
        "--batch-size",
        16,
        "--json",
    ]
    found = cli(
        "eval",
        "--method",
        "diffrate",
        "--model",
        TINY,
        "--published-rate",
        0.6,
        "--weights",
        tmp_path / "deit.pth",
        *words,
    )
    assert found.status == 0, found.err
    shape_(model, shapes_for(model, published_at(TINY, 0.6)))
    adacomcat.save(model, tmp_path / "model")
    again = cli("eval", "--from", tmp_path / "model", *words).json
    assert again["macs"] == found.json["macs"] < 0.66e9
    assert again["loss"] == pytest.approx(found.json["loss"], rel=1e-5)
    assert again["accuracy"] == found.json["accuracy"]


def test_a_published_rate_is_of_published_weights(images, tmp_path):
    def config(*words):
        flags = ["eval", "--method", "diffrate", "--data", str(images), *words]
        arguments = parse(flags)
        return eval_config(arguments, {})

    deit = config("--model", TINY, "--published-rate", "0.6")
    assert deit.dense.weights == "timm" and "global_pool" not in deit.model.options
    name = "vit_base_patch16_224.mae"
    weights = str(tmp_path / "mae.pth")
    torch.save({"cls_token": torch.zeros(1, 1, 768)}, weights)
    mae = config("--model", name, "--published-rate", "11.5", "--weights", weights)
    assert mae.dense.weights == weights
    assert mae.model.options["global_pool"] == "avg" and mae.model.options["fc_norm"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--published-rate", "3"],
            "published rate: got 3.0, allowed: 0.6, 0.7, 0.8, 0.9, 1.0, "
            f"those published for {TINY}",
        ),
        (
            ["--published-rate", "0.6", "--set", "model.options.depth=4"],
            "rates.prune: got '12 counts', allowed: 4",
        ),
        (
            ["--published-rate", "0.6", "--set", "model.options.img_size=112"],
            "model: tokens: got 50, allowed: 197, of which the published rates are",
        ),
    ],
)
def test_rates_that_there_are_not_or_of_another_model(cli, words, message):
    done = cli("info", "--method", "diffrate", "--model", TINY, *words)
    assert (done.status, done.err) == (2, f"error: {message}\n")


# What is asked for.


def test_a_target_in_gmacs_is_a_whole_budget(given):
    for method in METHODS:
        config = config_of(*given, "--method", method, "--target-gmacs", 0.0009)
        assert config.method["name"] == method
        assert (config.budget.unit, config.budget.reduction) == ("macs", None)
        assert config.budget.absolute == pytest.approx(900_000)


def test_a_reduction_is_of_what_the_method_saves(given):
    units = {
        method: config_of(*given, "--method", method, "--target-reduction", 0.3).budget
        for method in METHODS
    }
    assert {method: budget.unit for method, budget in units.items()} == {
        "lowrank": "params",
        "diffrate": "macs",
        "lowrank+diffrate": "macs",
    }
    assert all(budget.reduction == 0.3 for budget in units.values())


def test_the_recipe_of_token_rates_is_searches_alone(given):
    config = config_of(*given, "--method", "diffrate", "--epochs", 5)
    assert config.search_phase.frozen and config.search_phase.epochs == 5
    assert config.schedule == {"kind": "explicit", "epochs": [0, 1, 2, 3, 4]}
    upstream = config_of(*given, "--method", "diffrate", "--preset", "upstream")
    assert upstream.method["sizes"] == "reference" and upstream.method["granularity"] == 4
    assert upstream.data.leakage == ()


def test_both_keep_the_ranks_own_settings(given):
    """But for fractions, which are centered on what ranks save alone, and for the penalty."""
    plain = config_of(*given)
    config = config_of(*given, "--method", "lowrank+diffrate")
    ranks = dict(plain.method)
    assert ranks.pop("name") == "lowrank"
    ranks.pop("fractions", None)
    assert config.method["lowrank"] == ranks
    assert config.search == plain.search.replace(penalty="squared")
    assert config.search_phase.distill.align_blocks == ()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_flag_there_is(method):
    assert build_method(tiny_vit(), {"name": method}).name == method


# What is refused.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "search --output x --model m --data y --target-gmacs 1 --target-reduction 0.5",
            "--target-gmacs / --target-reduction: got 'given', allowed: --target-gmacs alone: it "
            "is the whole budget",
        ),
        (
            "search --output x --model m --data y --target-gmacs 1 --latency-table f",
            "--target-gmacs / --latency-table: got 'given', allowed: --target-gmacs alone: it is "
            "the whole budget",
        ),
        (
            "search --output x --model m --data y --target-gmacs 0",
            "--target-gmacs: got 0.0, allowed: above 0",
        ),
        (
            "search --resume x --method diffrate",
            "--method: got 'given', allowed: --device, --data, --workers and --set runtime.X=Y "
            "beside --resume: the rest is stored",
        ),
        (
            "eval --model m --data y --published-rate 2.9",
            "--method / --published-rate: got ['--published-rate'], allowed: both of them, or none",
        ),
        (
            "info --model m --method diffrate --published-rate 2.9 --ranks r",
            "--from / --comcat-dir / --ranks / --published-rate: "
            "got ['--ranks', '--published-rate'], "
            "allowed: exactly one of them",
        ),
        (
            "info --method diffrate --published-rate 2.9",
            "--model: got None, allowed: timm's name of the dense model",
        ),
        (
            "eval --from x --method diffrate --published-rate 2.9",
            "--from: got 'given', allowed: nothing with --published-rate",
        ),
    ],
)
def test_flags_that_do_not_go_together(words, message):
    with pytest.raises(ValueError) as caught:
        parse(words.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            0.002,
            f"budget.absolute: got 2000000.0, allowed: at most {DENSE_MACS:,} macs, what the "
            "dense model costs",
        ),
        (
            0.0001,
            "budget.absolute: got 100000.0, allowed: a total of at least 867,504 macs, the "
            f"smallest reachable cost (reduction at most 0.2411 of {DENSE_MACS:,}); this is "
            "100,000",
        ),
    ],
)
def test_targets_out_of_reach(cli, given, tmp_path, target, message):
    done = cli(
        "search",
        *given,
        "--method",
        "diffrate",
        "--target-gmacs",
        target,
        "--workers",
        0,
        "--device",
        "cpu",
        "--output",
        tmp_path / "run",
    )
    assert (done.status, done.err) == (2, f"error: {message}\n")
    assert not (tmp_path / "run").exists()


def test_no_reference_has_both(given):
    with pytest.raises(ValueError, match="--preset: got 'upstream', allowed: nothing with --meth"):
        config_of(*given, "--method", "lowrank+diffrate", "--preset", "upstream")


def test_latency_is_measured_of_ranks_alone(tmp_path):
    words = f"latency --model {TINY} --output {tmp_path}/t.json --set method.name=diffrate"
    with pytest.raises(ValueError) as caught:
        measured_config(parse(words.split()))
    assert str(caught.value).startswith("method.name: got 'diffrate', allowed: lowrank")
