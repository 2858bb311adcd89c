"""`latency`, and a search whose budget is in time."""

import json

import pytest
import torch

import adacomcat
from adacomcat.cli.main import parse
from adacomcat.cli.request import measured_config, search_config
from adacomcat.overrides import build_config
from adacomcat.testing.latency import made_up_table
from adacomcat.timetable import read_timetable, write_timetable

SIZES = ["depth=1", "embed_dim=48", "num_heads=3", "patch_size=8", "img_size=32", "num_classes=4"]
MODEL = ["--model", "deit_tiny_patch16_224"] + [
    part for size in SIZES for part in ("--set", f"model.options.{size}")
]
QUICK = ["--device", "cpu", "--batch-size", 2, "--threads", 1, "--repeats", 2]


def test_what_is_measured_is_a_budget_for_a_search(cli, asked, tmp_path):
    output = tmp_path / "table.json"
    done = cli("latency", *MODEL, *QUICK, "--set", "method.fractions=[0.2,0.4]", "--output", output)
    assert done.status == 0, done.err
    for words in ("deit_tiny_patch16_224, cpu, batch 2, float32, 1 threads", "by the table,"):
        assert words in done.out
    table, content = read_timetable(output), json.loads(output.read_text())
    assert list(table["kinds"]) == ["qk", "vo", "fc1", "fc2", "head"]
    # 16 a head: 20 % of it are 3, 40 % are 6.
    assert list(table["kinds"]["qk"]["rank_ns"]) == ["9", "18"]
    assert content["settings"] == {
        "device": "cpu",
        "batch_size": 2,
        "dtype": "float32",
        "threads": 1,
        "repeats": 2,
    }
    assert content["method"] == {"name": "lowrank", "space": "fractions", "fractions": [0.2, 0.4]}
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["machine"]["cpu"]
    rounds = content["seconds_a_call"]["qk 9"]["seconds"]
    assert len(rounds) == 2
    for found in content["checks"]:
        predicted, measured = found["predicted_of_dense"], found["measured_of_dense"]
        assert found["error"] == pytest.approx(predicted / measured - 1)
    again = cli("latency", *MODEL, *QUICK, "--output", output)
    assert again.status == 2 and "--output: got" in again.err
    words = ["search", *asked, "--latency-table", str(output), "--output", "x"]
    config = search_config(parse(words))
    assert (config.budget.unit, dict(config.budget.latency)) == ("latency", table)
    assert config.budget.reduction == 0.5
    output.unlink()
    assert build_config(config.to_json()) == config


@pytest.mark.parametrize(
    ("model", "options", "space", "side"),
    [
        ("deit_small_patch16_224", [], "paper", 224),
        ("deit_small_patch16_224", ["--set", "model.options.num_classes=10"], "fractions", 224),
        ("deit_small_patch16_224", ["--set", "method.space=aligned"], "aligned", 224),
        ("vit_tiny_patch16_384", [], "paper", 384),
        ("vit_tiny_patch16_384", ["--set", "model.options.img_size=64"], "paper", 64),
    ],
)
def test_the_space_and_the_images_are_those_of_a_search(model, options, space, side):
    words = ["latency", "--model", model, *options, "--output", "x"]
    config = measured_config(parse(words))
    assert (config.method["space"], config.data.image_size) == (space, side)


def test_a_search_in_time(cli, asked, dense, tmp_path):
    table = made_up_table(dense)
    write_timetable(tmp_path / "table.json", table)
    run = tmp_path / "run"
    done = cli("search", *asked, "--latency-table", tmp_path / "table.json", "--output", run)
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in (run / "searches.jsonl").read_text().splitlines()]
    row = rows[-1]
    assert row["unit"] == "latency"
    assert row["plan_cost"] <= row["target_cost"]
    by_hand = 0
    for site, rank in row["plan"].items():
        entry = table["kinds"][site.rpartition(".")[2]]
        by_hand += entry["dense_ns"] if rank is None else entry["rank_ns"][str(rank)]
        assert rank is None or entry["rank_ns"][str(rank)] < entry["dense_ns"]
    assert row["plan_cost"] == by_hand
    searched = sum(entry["sites"] * entry["dense_ns"] for entry in table["kinds"].values())
    assert row["target_cost"] + table["model_ns"] - searched == 0.5 * table["model_ns"]
    assert adacomcat.load(run)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_a_table_of_another_space_is_refused(cli, asked, dense, tmp_path):
    write_timetable(tmp_path / "table.json", made_up_table(dense, fractions=[0.3]))
    run = tmp_path / "run"
    done = cli("search", *asked, "--latency-table", tmp_path / "table.json", "--output", run)
    assert done.status == 2
    assert "budget.latency.kinds.qk.rank_ns: got" in done.err and "blocks.0.qk" in done.err
    assert not run.exists()
    done = cli("search", *asked, "--set", "budget.unit=latency", "--output", run)
    assert done.status == 2 and "adacomcat latency" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output x --batch-size 0", "--batch-size: got 0, allowed: 1 or more"),
        ("--output x --repeats 0", "--repeats: got 0"),
        ("--output x --threads 0", "--threads: got 0"),
        ("--output .", "--output: got '.', allowed: a new file"),
    ],
)
def test_flags_that_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse(["latency", "--model", "deit_tiny_patch16_224", *words.split()])


@pytest.mark.parametrize("setting", ["budget.reduction=0.3", "model.name=x", "data.image_size=3"])
def test_settings_that_do_not_matter_are_refused(setting):
    words = ["latency", "--model", "deit_tiny_patch16_224", "--set", setting, "--output", "x"]
    with pytest.raises(ValueError, match=rf"--set {setting.partition('=')[0]}: got .*method\.X=Y"):
        measured_config(parse(words))


def test_a_device_that_is_none(cli, tmp_path):
    done = cli("latency", *MODEL, "--device", "tpu", "--output", tmp_path / "x.json")
    assert done.status == 2 and "--device: got 'tpu'" in done.err
