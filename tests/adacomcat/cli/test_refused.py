"""What is refused, and in which words; nothing is left behind."""

import json
import re
import shutil

import pytest
import timm
import torch

from adacomcat.cli.main import parse
from adacomcat.cli.request import search_config
from adacomcat.io.run import Run


@pytest.fixture
def copy(images, tmp_path):
    """A folder of images to spoil."""
    return shutil.copytree(images, tmp_path / "data")


@pytest.fixture
def refused(cli, asked, tmp_path):
    """Runs a search that must be refused, and gives its message."""

    def run(*more, data=None, status=2):
        folder = tmp_path / "run"
        given = list(asked)
        if data is not None:
            given[given.index("--data") + 1] = str(data)
        done = cli("search", *given, *more, "--output", folder)
        assert done.status == status, done.out + done.err
        assert Run(folder).status in ("pending", "failed")
        assert done.err.startswith("error: ") and done.err.count("\n") == 1
        return done.err

    return run


def test_a_folder_without_val(refused, copy, tmp_path):
    shutil.rmtree(copy / "val")
    assert "val/ is missing" in refused(data=copy)
    assert not (tmp_path / "run").exists()


def test_a_class_missing_in_val(refused, copy):
    shutil.rmtree(copy / "val" / "class_002")
    message = refused(data=copy)
    assert "class 'class_002'" in message and "missing from val" in message


def test_a_truncated_jpeg_is_named(refused, copy):
    for path in (copy / "train" / "class_001").iterdir():
        path.write_bytes(path.read_bytes()[:-200])
    message = refused(data=copy)
    assert re.search(r"train/class_001/00\d\d\.jpg", message) and "truncated" in message


def test_a_truncated_jpeg_is_left_out_when_asked_for(cli, asked, copy, tmp_path):
    for path in (copy / "train").glob("*/0003.jpg"):
        path.write_bytes(path.read_bytes()[:200])
    given = list(asked)
    given[given.index("--data") + 1] = str(copy)
    folder = tmp_path / "run"
    done = cli("search", *given, "--set", "runtime.skip_unreadable=true", "--output", folder)
    assert done.status == 0, done.err
    last = json.loads((folder / "epochs.jsonl").read_text().splitlines()[-1])
    assert 1 <= last["unreadable"] <= 4
    assert "left out of the" in done.out and "0003.jpg" in done.out


def test_weights_for_other_classes(refused, tmp_path):
    other = timm.create_model(
        "deit_tiny_patch16_224",
        num_classes=7,
        img_size=32,
        patch_size=8,
        depth=2,
        embed_dim=48,
        num_heads=3,
    )
    torch.save({"model": other.state_dict()}, tmp_path / "seven.pth")
    # The later flag counts.
    message = refused("--weights", tmp_path / "seven.pth")
    assert "7 classes" in message and "4 classes" in message and "new_head" in message


def test_an_image_size_that_the_patch_does_not_divide(cli, asked, tmp_path):
    given = [part.replace("data.image_size=32", "data.image_size=36") for part in asked]
    done = cli("search", *given, "--output", tmp_path / "run")
    assert done.status == 2
    assert "model.options.patch_size: got 8" in done.err and "36" in done.err


def test_a_search_batch_larger_than_the_split(refused):
    message = refused("--search-batch-size", 50)
    assert "50" in message and "search split" in message and "12" in message


@pytest.mark.parametrize("command", ["search", "finetune"])
def test_a_directory_that_is_there(cli, asked, searched, command):
    more = asked if command == "search" else ["--from", searched]
    done = cli(command, *more, "--output", searched)
    assert done.status == 2
    assert done.err == f"error: --output: got '{searched}', allowed: a new directory\n"


def test_a_run_that_is_not_finished(cli, searched, tmp_path):
    half = shutil.copytree(searched, tmp_path / "half")
    Run(half).update("interrupted")
    for command in (["eval"], ["info"], ["finetune", "--output", tmp_path / "new"]):
        done = cli(*command, "--from", half)
        assert done.status == 2
        assert f"adacomcat search --resume {half}" in done.err


def test_a_directory_of_another_command(cli, searched, tmp_path):
    done = cli("finetune", "--resume", searched)
    assert done.status == 2 and f"search --resume {searched}" in done.err
    done = cli("search", "--resume", tmp_path)
    assert done.status == 2 and "no trial.json" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("search --output x --data y", "--model"),
        ("search --output x --model m", "--data"),
        ("search --model m --data y", "--output"),
        ("search --resume x --epochs 3", "--epochs"),
        ("search --resume x --set seed=3", "--set seed: got 3"),
        ("search --resume x --set data.name=digits", "--set data.name: got 'digits'"),
        ("finetune --resume x --workers 2 --weights f", "--weights: got 'given'"),
        ("finetune --output x", "--from"),
        ("eval --data y --model m", "exactly one"),
        ("eval --from x --comcat-dir y", "exactly one"),
        ("eval --from x --model m", "--model"),
        ("info", "exactly one"),
        ("info --ranks r --model m", "--biases"),
        ("info --ranks r --biases drop", "--model"),
        ("info --from x --biases drop", "--biases"),
        ("info --from x --set model.options.depth=2", "--set"),
        ("convert --from x --output y", "--to"),
        ("convert --comcat-dir x --model m --to comcat --output y", "--to"),
        ("convert --comcat-dir x --output y", "--model"),
    ],
)
def test_flags_that_do_not_go_together(words, message):
    with pytest.raises(ValueError, match=message):
        parse(words.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "search_phase.epochs=3"], "this or its flag, not both"),
        (["--schedule", "adaptiv"], "did you mean 'adaptive'"),
        (["--target-reduction", "1.5"], "budget.reduction"),
        (["--set", "serch.lr=3"], "did you mean 'search'"),
        (["--model", "deit_tiny"], "model.name"),
        (["--model", "resnet18"], "resnet"),
        (["--data", "/nowhere"], "--data: got '/nowhere'"),
    ],
)
def test_settings_that_are_refused(asked, more, message):
    with pytest.raises(ValueError, match=message):
        search_config(parse(["search", *asked, *more, "--output", "x"]))


def test_no_weights_and_no_recipe_for_them(asked):
    at = asked.index("--weights")
    given = parse(["search", *asked[:at], *asked[at + 2 :], "--output", "x"])
    with pytest.raises(ValueError, match="--weights: got None"):
        search_config(given)


def test_an_error_names_the_flag_that_was_typed(cli, tmp_path):
    given = ("search", "--workload", "synthetic", "--output", tmp_path / "run")
    done = cli(*given, "--search-batch-size", 0)
    assert done.status == 2 and done.err.startswith("error: --search-batch-size: got 0, allowed")
    done = cli(*given, "--set", "search.batch_size=0")
    assert done.status == 2 and done.err.startswith("error: search.batch_size: got 0, allowed")
