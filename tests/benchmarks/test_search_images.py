"""The benchmark as a program, small."""

import itertools
import json
import statistics
import subprocess
import sys
from typing import Any

import pytest

from adacomcat.plan import Plan
from study.execution.provenance import repository

SMALL = [
    "--workload",
    "synthetic",
    "--batch-size",
    "16",
    "--seeds",
    "3",
    "--threads",
    "1",
    "--set",
    "data.options.images=300",
    "dense.recipe.epochs=1",
    "search.lr=0.1",
]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = str(repository() / "benchmarks" / "search_images.py")
    return subprocess.run(
        [sys.executable, program, *SMALL, *arguments], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    output = tmp_path_factory.mktemp("search_images") / "record.json"
    done = run("--images", "16", "90", "200", "--stable", "1", "500", "--output", str(output))
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


def test_searches_see_what_they_were_given(ran: tuple[dict[str, Any], str]) -> None:
    rows = {(row["search"], row["images"]): row for row in ran[0]["rows"]}
    assert list(rows)[:5] == [
        ("full", 192),
        ("cut", 16),
        ("cut", 80),
        ("scaled", 16),
        ("scaled", 80),
    ]
    full = rows["full", 192]
    # One pass over the search split at the recipe's rate, as far as a logit can move.
    reach = 0.1 * (ran[0]["settings"]["search_split"] // 16)
    for (name, _), row in rows.items():
        if name == "scaled":
            assert row["lr"] * row["steps"] == pytest.approx(reach)
        elif name != "default plan":
            assert row["lr"] * full["steps"] == pytest.approx(reach)
    stable = [row for row in ran[0]["rows"] if row["search"].startswith("stable")]
    assert stable[0]["images"] < 192 == stable[1]["images"]
    assert stable[1]["plans"] == full["plans"]


def test_distances_are_those_of_the_plans(ran: tuple[dict[str, Any], str]) -> None:
    record = ran[0]
    plans = {
        (row["search"], row["images"]): [Plan("lowrank", found) for found in row["plans"]]
        for row in record["rows"]
    }
    full = plans["full", 192]
    for row in record["rows"]:
        found = plans[row["search"], row["images"]]
        own = [a.distance(b) for a, b in zip(found, full, strict=True)]
        other = [found[i].distance(full[j]) for i, j in itertools.permutations(range(3), 2)]
        assert row["to_own_full"] == pytest.approx(statistics.mean(own))
        assert row["to_other_full"] == pytest.approx(statistics.mean(other))
        assert row["same_plans"] == own.count(0)
    pairs = [a.distance(b) for a, b in itertools.combinations(full, 2)]
    assert record["floor"]["pairs"] == pytest.approx(pairs)


def test_it_says_how_few_images_are_enough(ran: tuple[dict[str, Any], str]) -> None:
    record, printed = ran
    limit = record["floor"]["mean"] + record["floor"]["deviation"]
    for name in ("cut", "scaled"):
        rows = [row for row in record["rows"] if row["search"] == name]
        near = {row["images"]: row["to_other_full"] <= limit for row in rows}
        expected = {(True, True): 16, (False, True): 80}.get((near[16], near[80]))
        assert record["fewest_images"][name] == expected
    assert printed.count("of 192 images give the same plan within the noise") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "200"], "--images: got [200], allowed: two numbers or more"),
        (["--images", "15", "200"], "--images: got 15, allowed: a batch of 16 images or more"),
        (["--seeds", "2"], "--seeds: got 2, allowed: 3 or more"),
        (["--workload", "digit"], "did you mean 'digits'"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
