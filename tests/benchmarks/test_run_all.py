"""One entry for all of them."""

import json

import torch


def test_all_that_are_asked_for_run_and_end_in_one_table(run, tmp_path):
    done = run(
        "run_all",
        "--quick",
        "--only",
        "search_share",
        "factorize",
        "image_folder",
        "--folder",
        tmp_path / "json",
    )
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (tmp_path / "json").iterdir()}
    assert names == {"factorize", "search_share"}
    assert "== image_folder: not with these flags" in done.stdout
    _, _, summary = done.stdout.partition("benchmark ")
    rows = summary.splitlines()[1:]
    bars = [
        bar
        for name in ("factorize", "search_share")
        for bar in json.loads((tmp_path / "json" / f"{name}.json").read_text())["bars"]
    ]
    assert len(rows) == len(bars) == 3
    for row, bar in zip(rows, bars, strict=True):
        assert bar["name"] in row and row.endswith("met" if bar["met"] else "MISSED")


def test_one_that_breaks_is_told_apart_and_its_old_record_is_gone(run, tmp_path):
    (tmp_path / "factorize.json").write_text('{"bars": []}')
    flags = ("--quick", "--only", "factorize", "--device", "cuda", "--folder", tmp_path)
    done = run("run_all", *flags)
    broken = not torch.cuda.is_available()
    assert done.returncode == int(broken)
    assert ("BROKEN" in done.stdout) is broken
    assert (tmp_path / "factorize.json").exists() is not broken
