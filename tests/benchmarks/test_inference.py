"""Structure, equality and the shapes of models that are cut down."""

import importlib
import json

import pytest

from adacomcat.io.trace import TraceWriter
from adacomcat.methods.tokens.rates import published_at
from adacomcat.models.timm_vit import VisionTransformerSteps
from adacomcat.models.tokens import TokenSequence
from adacomcat.versions import repository
from analysis import fig_methods
from study.execution.body import untrained
from study.spec.catalog import load_experiment
from study.spec.expand import expand
from study.spec.schema import Experiment
from study.store import Results

TINY, RATE = "deit_tiny_patch16_224", 0.6
EVERY = ("--modes", "eager", "onnxruntime", "--dtypes", "float32", "bfloat16")
SMALL = {"model.options.depth": 4, "data.options.images": 400}


def sequence(depth, patches):
    steps = VisionTransformerSteps()
    return TokenSequence("blocks", depth, patches, 1, 1, pooled=False, width=32, steps=steps)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(repository() / "benchmarks"))
    return importlib.import_module("inference")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lowrank", "diffrate"])
def test_every_mode_is_measured_and_a_cut_model_has_no_bar(measure, method):
    flags = ("--method", method, "--rate", RATE, "--batch-sizes", 1, 3)
    record = measure("inference", *EVERY, *flags)
    found = {(row["mode"], row["dtype"], row["batch_size"]) for row in record["rows"]}
    eager = {("eager", dtype, size) for dtype in ("float32", "bfloat16") for size in (1, 3)}
    # ONNX Runtime runs the exported file, which is in float32.
    assert found == eager | {("onnxruntime", "float32", size) for size in (1, 3)}
    for row in record["rows"]:
        assert row["over_dense"]["dense"]["seconds"] == [1, 1, 1]
        assert min(row["images_per_s"].values()) > 0
    params, macs = record["params"], record["macs"]
    assert macs["published"] < macs["dense"]
    assert f"{macs['published']:,} MACs per image" in record["printed"]
    if method == "lowrank":
        # As many parameters as fit, and never more.
        assert 0.95 * params["published"] < params["aligned"] <= params["published"]
        assert params["published"] < params["dense"]
        assert all("aligned_over_published" in row for row in record["rows"])
    assert record["bars"] == []


def row(mode, batch, ratio, **more):
    over = {"published": {"median_s": ratio}}
    return {"mode": mode, "dtype": "float32", "batch_size": batch, "over_dense": over, **more}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ("--method", "diffrate"),
            [("eager, float32, batch 8", True), ("compiled, float32, batch 8", False)],
        ),
        (("--method", "diffrate", "--rate", "2.3"), []),
        (("--method", "diffrate", "--device", "cuda"), []),
        (
            (),
            [
                ("eager, float32, batch 1", False),
                ("eager, float32, batch 8", True),
                ("compiled, float32, batch 1", False),
                ("compiled, float32, batch 8", False),
            ],
        ),
        (("--model", "deit_base_patch16_224"), []),
    ],
)
def test_bars_apply_only_to_the_settings_that_they_are_for(benchmark, flags, expected):
    ratios = {"eager": 1.6, "compiled": 1.4, "onnxruntime": 1.1}
    arguments = benchmark.parse(list(flags))
    case = benchmark.METHODS[arguments.method]
    rows = [row(mode, batch, ratio) for mode, ratio in ratios.items() for batch in (1, 8)]
    found = [bar for one in rows for bar in case.bars(one, arguments)]
    assert [(bar.name, bar.met) for bar in found] == expected


def test_a_model_that_is_whole_has_the_published_counts(benchmark):
    published = published_at(TINY, RATE)
    form = sequence(12, 196)
    assert benchmark.rates_for(form, published) == published


def test_a_model_that_is_cut_down_keeps_the_same_shares(benchmark):
    published = published_at(TINY, RATE)
    # Blocks 0 and 6 of 12, with a quarter of the patches; 76 and 86 of 197 tokens at the latter.
    found = benchmark.rates_for(sequence(2, 49), published)
    assert (published.merge[6], published.prune[6]) == (76, 86)
    assert (found.prune, found.merge) == ((50, 23), (50, 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model", "deit_smal"), "error: --model: got 'deit_smal', allowed: one of timm\n"),
        (
            ("--method", "diffrate", "--rate", "2.8", "--modes", "eager"),
            "error: published rate: got 2.8, allowed: 2.3, 2.5, 2.7, 2.9, 3.1",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line(run, flags, said):
    done = run("inference", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1


@pytest.fixture
def study(tmp_path):
    """One budget of `methods_compared` on synthetic images, two seeds, default plans."""
    whole = load_experiment("methods_compared", "synthetic", 2, SMALL)
    arms = tuple(arm for arm in whole.arms if arm.name.endswith("_30"))
    experiment = Experiment(**{**dict(whole), "arms": arms})
    results = Results(tmp_path / "study")
    results.begin(experiment, command="none", provenance={})
    for spec in expand(experiment):
        results.add(spec)
        trial = untrained(spec.trial_config())
        plan = trial.method.default_plan(trial.budget)
        costs = ("params", "macs", "dense_params", "dense_macs")
        summary = {"test_acc": 0.5, "dense_test_acc": 0.5, "searches": 0, "search_s": 0.0}
        summary |= {"rebuild_s": 0.0, "plan": dict(plan.decisions), **dict.fromkeys(costs, 1)}
        writer = TraceWriter(results.folder(spec.trial_id))
        writer.epoch({"phase": "search", "epoch": 0, "step_epoch": 0, "searches": 0})
        writer.close()
        results.update(spec.trial_id, "finished", summary=summary)
    return results


@pytest.mark.slow
def test_every_finished_trial_has_a_speed_that_the_figure_reads(run, study):
    flags = ("--results", study.root, "--threads", 1, "--repeats", 3, "--batch-sizes", 2)
    done = run("inference", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads((study.root / "speed.json").read_text())
    assert found["benchmark"] == "inference" and found["settings"]["batch_size"] == 2
    records = study.trials()
    assert found["trials"].keys() == {record["trial_id"] for record in records}
    for arm in {record["arm"] for record in records}:
        # Both seeds have the same plan, so that one model is measured.
        one, other = (found["trials"][r["trial_id"]] for r in records if r["arm"] == arm)
        assert one == other
        assert one["quartiles"][0] <= one["images_per_s"] <= one["quartiles"][1]
    # The searched and the uniform arm of tokens have the same default plan, too.
    speeds = {tuple(speed["quartiles"]) for speed in found["trials"].values()}
    assert len(speeds) == 3
    assert found["dense"]["over_dense"] == 1 and "x1.00" in done.stdout
    table = fig_methods.data(study.root).set_index("arm")
    for record in records:
        expected = found["trials"][record["trial_id"]]["images_per_s"]
        assert table.loc[record["arm"], "images_per_s"] == pytest.approx(expected)
    assert table.loc["dense", "images_per_s"] == found["dense"]["images_per_s"]
    assert table.loc["both_30", "measured"].startswith("batch 2, float32, ")


@pytest.mark.slow
def test_a_study_without_finished_trials_is_one_line(run, study, tmp_path):
    for record in study.trials():
        study.update(record["trial_id"], "failed", summary=None)
    done = run("inference", "--results", study.root)
    assert done.returncode == 1
    assert done.stderr == f"error: {study.root}: finished trials: got 0, allowed: 1 or more\n"
    done = run("inference", "--results", tmp_path)
    assert done.returncode == 1 and "study.json" in done.stderr
